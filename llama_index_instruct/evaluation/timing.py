"""What a figure was measured on, and times as ratios inside one run."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TypeVar

from llama_index_instruct.evaluation.threads import one_thread

_CPU_INFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
Result = TypeVar("Result")


def machine_line(today: date | None = None) -> str:
    """Return processor, cores, Python, torch and date.

    Args:
        today: Printed in the place of the clock's date.
    """
    import torch

    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {today or date.today()}"
    )


def times_of(variants: Mapping[str, Callable[[], object]], *, base: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return CPU milliseconds of every variant and its ratio to one of them, by one thread.

    Variants take turns inside every round and ratios are formed per round, so load from elsewhere cancels.

    Args:
        variants: Name -> what is timed.
        base: Name of the one the others are compared with.
        rounds: Each runs every variant once, after one that does not count.

    Returns:
        Per variant ``cpu_ms`` and ``ratio``, medians, with ``lowest`` and ``highest`` ratio.
    """
    spent: dict[str, list[float]] = {name: [] for name in variants}
    with one_thread():
        for number in range(rounds + 1):
            for name, variant in variants.items():
                seconds, _ = cpu_seconds(variant)
                if number > 0:
                    spent[name].append(1000.0 * seconds)
    return {name: _compared(spent[name], spent[base]) for name in variants}


def _compared(spent: list[float], base: list[float]) -> dict[str, float]:
    ratios = [mine / other for mine, other in zip(spent, base, strict=True)]
    return {
        "cpu_ms": round(statistics.median(spent), 2),
        "ratio": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
    }


def cpu_seconds(call: Callable[[], Result]) -> tuple[float, Result]:
    """Return the CPU seconds a call took, and what it returned."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


class ForeignLoad:
    """How many processors others kept busy meanwhile, in ``cpus``; None where the system does not say.

    Example:
        >>> with ForeignLoad() as load:
        ...     _ = sum(range(1000))
        >>> load.cpus is None or load.cpus >= 0.0
        True
    """

    cpus: float | None = None

    def __enter__(self) -> ForeignLoad:
        self._start = time.perf_counter(), _busy_seconds(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, busy, own = self._start
        now = _busy_seconds()
        if busy is None or now is None:
            return
        others = now - busy - (time.process_time() - own)
        self.cpus = round(max(0.0, others / max(time.perf_counter() - wall, 1e-9)), 2)


def _busy_seconds() -> float | None:
    """Return the seconds all processors together have worked since the start of the system."""
    try:
        fields = _STAT.read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, _ = (int(field) for field in fields)
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
