"""Records -> pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import MissingExtraError


@dataclass(frozen=True, eq=False)
class Panel:
    """Points of one scatter plot.

    Attributes:
        title: Above it.
        points: Shape (n, 2).
        labels: n names; one colour each.
    """

    title: str
    points: npt.NDArray[np.floating]
    labels: Sequence[str]


def save_scatter(before: Sequence[Panel], after: Sequence[Panel], path: Path, *, heading: str) -> None:
    """Draw pairs of scatter plots, one above the other, with one legend per pair, and save them as a picture.

    Args:
        before: Upper row.
        after: Lower row, as many.
        path: Of the picture; its ending decides the format.
        heading: Above all.

    Raises:
        MissingExtraError: If the extra ``bench`` is not installed.
    """
    figure = _figure(4.6 * len(before), 9.0)
    axes = np.atleast_2d(figure.subplots(2, len(before), squeeze=False))
    for row, panels in enumerate((before, after)):
        for axis, panel in zip(axes[row], panels, strict=True):
            names = sorted(set(panel.labels))
            labels = np.array(panel.labels)
            for place, name in enumerate(names):
                x, y = panel.points[labels == name].T
                axis.scatter(
                    x, y, s=16, color=f"C{place % 10}", marker="os^"[place // 10 % 3], label=name, linewidths=0
                )
            axis.set_title(panel.title, fontsize=10)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 1:
                axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, fontsize=8, frameon=False)
    _save(figure, path, heading)


def save_points(
    panels: Mapping[str, Mapping[str, tuple[float, float]]],
    path: Path,
    *,
    heading: str,
    x: str,
    y: str,
    log: bool = False,
) -> None:
    """Draw one named point per entry, panels side by side with one legend, and save them as a picture.

    Args:
        panels: Title -> name -> its x and y.
        path: Of the picture; its ending decides the format.
        heading: Above all.
        x: What the horizontal axis shows.
        y: What the vertical axis shows.
        log: Horizontal axis logarithmic.

    Raises:
        MissingExtraError: If the extra ``bench`` is not installed.
    """
    figure = _figure(4.2 * len(panels), 5.2)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        for place, (name, (at_x, at_y)) in enumerate(points.items()):
            axis.scatter(at_x, at_y, s=70, color=f"C{place % 10}", marker="os^Dv"[place % 5], label=name)
        axis.set(title=title, xlabel=x, ylabel=y, xscale="log" if log else "linear")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _save(figure, path, heading)


def save_bars(groups: Mapping[str, Mapping[str, float]], path: Path, *, heading: str, x: str) -> None:
    """Draw a group of named horizontal bars per entry and save them as a picture.

    Args:
        groups: Title of the group -> name -> length.
        path: Of the picture; its ending decides the format.
        heading: Above all.
        x: What the lengths are.

    Raises:
        MissingExtraError: If the extra ``bench`` is not installed.
    """
    names = list(next(iter(groups.values())))
    height = 0.8 / len(names)
    figure = _figure(8.0, 1.2 + 0.45 * len(groups))
    axis = figure.subplots()
    for place, name in enumerate(names):
        at = np.arange(len(groups)) + place * height
        axis.barh(at, [group[name] for group in groups.values()], height, label=name, color=f"C{place}")
    axis.set_yticks(np.arange(len(groups)) + 0.4 - height / 2, list(groups), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(x)
    axis.legend(fontsize=8, frameon=False)
    _save(figure, path, heading)


def save_boxes(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path, *, heading: str, x: str) -> None:
    """Draw named lying boxes, panels side by side, and save them as a picture.

    Args:
        panels: Title -> name -> low end, lower edge, median, upper edge and high end of its box.
        path: Of the picture; its ending decides the format.
        heading: Above all.
        x: What the boxes show.

    Raises:
        MissingExtraError: If the extra ``bench`` is not installed.
    """
    figure = _figure(1.6 + 3.4 * len(panels), 1.6 + 0.36 * max(map(len, panels.values())))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    parts = ("whislo", "q1", "med", "q3", "whishi")
    for axis, (title, boxes) in zip(axes, panels.items(), strict=True):
        drawn = [dict(zip(parts, values, strict=True)) | {"label": name} for name, values in boxes.items()]
        axis.bxp(drawn, showfliers=False, orientation="horizontal")
        axis.axvline(0.0, color="grey", linewidth=0.8)
        axis.set(title=title, xlabel=x)
    axes[0].invert_yaxis()
    _save(figure, path, heading)


def _by_peer(record: dict[str, Any], x: str) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        name: {peer: (row[x], row["map@100"]) for peer, row in found["peers"].items()}
        for name, found in record["sets"].items()
    }


def plot_calls(record: dict[str, Any], path: Path) -> None:
    """Draw a record of ``bench_rag``: quality against LLM calls."""
    save_points(
        _by_peer(record, "calls"), path, heading="Quality against LLM calls", x="LLM calls a query", y="MAP@100"
    )


def plot_milliseconds(record: dict[str, Any], path: Path) -> None:
    """Draw a record of ``bench_rag`` with times: quality against milliseconds."""
    x = "ms a query, LLM waited for"
    save_points(_by_peer(record, "ms"), path, heading="Quality against milliseconds", x=x, y="MAP@100", log=True)


def plot_moved(record: dict[str, Any], path: Path) -> None:
    """Draw a record of ``bench_rag``: how far relevant documents moved."""
    boxes = {
        name: {peer: row["moved"]["quantiles"] for peer, row in found["peers"].items() if peer != "plain"}
        for name, found in record["sets"].items()
    }
    x = "ranks up (10, 25, 50, 75, 90 %)"
    save_boxes(boxes, path, heading="Ranks that relevant documents moved", x=x)


def plot_nmi(record: dict[str, Any], path: Path) -> None:
    """Draw a record of ``bench_gstransform``: every facet before and after."""
    groups = {
        name: {"before": found["methods"]["plain"]["nmi"], "after": found["methods"]["default"]["nmi"]}
        for name, found in record["facets"].items()
    }
    save_bars(groups, path, heading="NMI by facet, before and after GSTransform", x="NMI, percent")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing", "bench") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path, heading: str) -> None:
    figure.suptitle(heading)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
