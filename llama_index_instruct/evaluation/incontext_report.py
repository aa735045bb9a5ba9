"""Records of the in-context benches -> tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def incontext_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_incontext``: MAP per method and set, then the speed."""
    sets = record["datasets"]
    table = _table("MAP in percent", "method", *sets, "mean")
    for method, mean in record["means"].items():
        table.add_row(method, *(f"{found['methods'][method]['map']:.1f}" for found in sets.values()), f"{mean:.1f}")
    console.print(table)
    if record["speed"]:
        reuse_table(record, console)


def reuse_table(record: dict[str, Any], console: Console) -> None:
    """Print what reuse of the shared beginning saves."""
    table = _table("one thread, CPU time, same run", "shared tokens", "queries per s", "times faster", "difference")
    for length, row in record["speed"].items():
        table.add_row(
            length, f"{row['queries_per_cpu_s']:.0f}", f"{row['times_faster']:.1f}", f"{row['largest_difference']:.0e}"
        )
    console.print(table)


def recipe_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_recipe``: mean MAP and its standard deviation over seeds, and what mining removed."""
    sets = list(record["means"]["untrained"])
    table = _table(f"MAP in percent, {len(record['settings']['seeds'])} seeds", "training", *sets)
    for arm, found in record["means"].items():
        spread = len(record["scores"][arm]) > 1
        cells = [f"{row['map']:.1f}" + (f" +- {row['spread']:.1f}" if spread else "") for row in found.values()]
        table.add_row(arm, *cells)
    console.print(table)
    for rule, report in record["mining"].items():
        removed = ", ".join(f"{reason} {count}" for reason, count in report["removed"].items()) or "none"
        console.print(
            f"{rule}: {report['candidates']} candidates, removed: {removed}; pairs dropped: {report['dropped']}"
        )
        console.print("  " + "; ".join(f"{what}: {share:.1f} %" for what, share in report["evidence"].items()))


def steering_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_steering``."""
    counts = [str(count) for count in record["settings"]["examples"]]
    table = _table("nearer to the value asked for, in percent; blind: 50", "model", *(f"{c} examples" for c in counts))
    for name, found in record["success"].items():
        table.add_row(name, *(f"{found[count]:.1f}" for count in counts))
    console.print(table)


def mining_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_mining``."""
    table = _table(
        f"{record['questions']} questions, teacher {record['teacher']}; in percent",
        *("rule", "hidden positives removed", "hard negatives kept"),
    )
    for name, row in record["rules"].items():
        table.add_row(name, f"{row['removed']:.1f}", f"{row['kept']:.1f}")
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
