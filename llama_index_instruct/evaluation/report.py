"""Records -> tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def refinement_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_refinement``, one table per set and one for speed."""
    for name, data in record["datasets"].items():
        methods = data["methods"]
        table = Table(title=f"{name}: {data['queries']} queries, {data['documents']} documents")
        columns = (
            "method",
            "MAP",
            "gain",
            "x kl-reference",
            "nDCG@10",
            "judgements",
            "worse",
            "solve ms",
            "prepare ms",
        )
        for column in columns:
            table.add_column(column, justify="left" if column == "method" else "right")
        for method, row in methods.items():
            table.add_row(
                method,
                f"{row['map']:.3f}",
                _gain(methods, method),
                _times_reference(methods, method),
                f"{row['ndcg@10']:.3f}",
                f"{row['judgements']:.1f}",
                f"{100 * row['worse']:.1f} %",
                *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("solve_ms", "prepare_ms")),
            )
        console.print(table)
    if "solver_speed" in record:
        table = Table(title="one solve, CPU time of one thread, against kl-reference in the same run")
        for column in ("dimension", "method", "ms", "times faster"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for dimension, methods in record["solver_speed"].items():
            for method, row in methods.items():
                table.add_row(dimension, method, f"{row['cpu_ms']:.2f}", f"{row['times_faster']:.1f}")
        console.print(table)


def gstransform_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_gstransform``: a row per facet and method, the means, and the four ways to search."""
    methods = list(record["means"])
    rows = {name: facet["methods"] for name, facet in record["facets"].items()} | {"mean": record["means"]}
    for measure in ("nmi", "triplet", "p@10"):
        table = Table(title=f"{measure} in percent, flip {record['settings']['flip']}")
        for column in ("facet", *methods):
            table.add_column(column, justify="left" if column == "facet" else "right")
        for name, found in rows.items():
            table.add_row(name, *(f"{found[method][measure]:.1f}" for method in methods))
        if measure == "nmi":
            table.add_row("CPU s of a fit", *(f"{record['means'][method]['fit_s']:.2f}" for method in methods))
        console.print(table)
    searches = {name: facet["p@100"] for name, facet in record["facets"].items() if "p@100" in facet}
    if searches:
        ways = list(next(iter(searches.values())))
        table = Table(
            title="precision at 100, in percent, documents as queries, 300 candidates where there are candidates"
        )
        for column in ("facet", *ways):
            table.add_column(column, justify="left" if column == "facet" else "right")
        for name, found in searches.items():
            table.add_row(name, *(f"{found[way]:.1f}" for way in ways))
        means = [sum(found[way] for found in searches.values()) / len(searches) for way in ways]
        table.add_row("mean", *(f"{mean:.1f}" for mean in means))
        console.print(table)


def inbedder_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_inbedder``: triplets, clusters and the means, a column per model."""
    models = list(record["means"])
    parts = (
        ("triplets", "mean", "triplets right, in percent, mean of both instructions (blind: 50)"),
        ("clusters", "v_measure", "v-measure of k-means, in percent"),
        ("robustness", "paraphrased", "triplets right under other wordings of the instructions"),
        ("robustness", "wrong", "triplets right under wrong questions"),
    )
    for part, measure, title in parts:
        rows = record.get(part)
        if not rows:
            continue
        table = Table(title=title)
        for column in ("set", *models):
            table.add_column(escape(column), justify="left" if column == "set" else "right")
        for name, found in rows.items():
            table.add_row(escape(name), *(f"{found[model][measure]:.1f}" for model in models))
        table.add_row("mean", *(f"{record['means'][model][f'{part} {measure}']:.1f}" for model in models))
        console.print(table)
    for model, row in record["speed"].items():
        console.print(
            f"{escape(model)}: {row['texts_per_cpu_s']:.0f} texts per CPU second, {row['vs_reference']:.2f} of the reference"
        )


def rag_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_rag``: quality and cost of every peer, first the means over the sets."""
    measure = next(name for name in next(iter(record["means"].values())) if name.startswith("map"))
    for name, found in {"Mean over the sets": {"peers": record["means"]}, **record["sets"]}.items():
        counted = f": {found['queries']} queries, {found['documents']} documents" if "queries" in found else ""
        timed = "ratio" in found["peers"]["plain"]
        table = Table(title=escape(f"{name}{counted}"))
        times = ("CPU, x plain", "lowest to highest", "CPU ms", "ms, LLM waited for") if timed else ()
        columns = ("peer", measure.upper(), "nDCG@10", "worse", "ranks moved", "LLM calls", "tokens", *times)
        for column in columns:
            table.add_column(column, justify="left" if column == "peer" else "right")
        for peer, row in found["peers"].items():
            cells = [
                f"{row[measure]:.3f}",
                f"{row['ndcg@10']:.3f}",
                f"{100 * row['worse']:.1f} %",
                f"{row['moved']['mean']:+.1f}" if "moved" in row else "-",
                f"{row['calls']:.0f}",
                f"{row['tokens']:.0f}",
            ]
            if timed:
                spread = f"{row['lowest']:.2f} to {row['highest']:.2f}"
                cells += [f"{row['ratio']:.2f}", spread, f"{row['cpu_ms']:.1f}", f"{row['ms']:.0f}"]
            table.add_row(escape(peer), *cells)
        console.print(table)
        if found.get("foreign_cpus") is not None:
            console.print(f"While times were taken, others kept {found['foreign_cpus']:.2f} processors busy.")
        for peer, reason in found.get("left_out", {}).items():
            console.print(f"Left out: {escape(peer)}, {escape(reason)}.")


def combined_table(record: dict[str, Any], console: Console) -> None:
    """Print the record of ``bench_combined``: the means, and the precision at 100 facet by facet."""
    plain = record["means"]["plain"]
    table = Table(title=f"Means over {len(record['facets'])} facets, in percent")
    for column in ("way", "p@10", "over plain", "p@100", "over plain", "LLM calls"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, row in record["means"].items():
        gains = (cell for cut in ("p@10", "p@100") for cell in (f"{row[cut]:.1f}", f"{row[cut] - plain[cut]:+.1f}"))
        table.add_row(escape(way), *gains, f"{row['calls']:.0f}")
    console.print(table)
    table = Table(title="p@100 by facet, in percent")
    for column in ("way", *record["facets"]):
        table.add_column(escape(column), justify="left" if column == "way" else "right")
    for way in record["means"]:
        table.add_row(escape(way), *(f"{facet['ways'][way]['p@100']:.1f}" for facet in record["facets"].values()))
    console.print(table)


def _gain(methods: dict[str, Any], method: str) -> str:
    if "plain" not in methods:
        return "-"
    return f"{methods[method]['map'] - methods['plain']['map']:+.3f}"


def _times_reference(methods: dict[str, Any], method: str) -> str:
    if not {"plain", "kl-reference"} <= methods.keys():
        return "-"
    plain = methods["plain"]["map"]
    reference = methods["kl-reference"]["map"] - plain
    return f"{(methods[method]['map'] - plain) / reference:.2f}" if abs(reference) > 1e-9 else "-"
