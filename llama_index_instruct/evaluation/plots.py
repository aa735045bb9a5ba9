"""Records -> pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing", "bench") from error
    figure = Figure(figsize=(4.6 * len(before), 9.0), layout="constrained")
    FigureCanvasAgg(figure)
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
    figure.suptitle(heading)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
