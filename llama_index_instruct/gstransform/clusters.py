"""Clusters of vectors and near-duplicate names: arrays in, arrays out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from llama_index_instruct.teacher.parsing import fold

FloatArray = npt.NDArray[np.float32]


def cluster(vectors: FloatArray, clusters: int, *, seed: int) -> npt.NDArray[np.intp]:
    """Return the k-means++ cluster of each row, shape (n,), numbered from 0 without gaps.

    Args:
        vectors: Shape (n, d).
        clusters: At most so many; fewer where rows repeat.
        seed: Of the start.
    """
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: the numbering below closes the gaps.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(min(clusters, len(vectors)), n_init=4, random_state=seed).fit_predict(vectors)
    return np.unique(found, return_inverse=True)[1].astype(np.intp)


def cluster_count(clusters: int, rows: int) -> int:
    """Return k: as many clusters as asked for, half the rows where there are fewer than twice as many, 2 at least."""
    return max(2, min(clusters, rows // 2))


def merge_near_duplicates(
    names: Sequence[str], sizes: Sequence[int], vectors: FloatArray, above: float | None
) -> list[str]:
    """Return the names that stay, largest group first: a name that means the same as a larger group's goes into it.

    Args:
        names: m names.
        sizes: Of the group behind each.
        vectors: Unit vectors of the names, shape (m, d).
        above: Cosine above which two names mean the same; None = only equal ones do.
    """
    kept: list[int] = []
    for row in sorted(range(len(names)), key=lambda row: (-sizes[row], names[row])):
        same = any(
            fold(names[row]) == fold(names[other])
            or (above is not None and float(vectors[row] @ vectors[other]) > above)
            for other in kept
        )
        if not same:
            kept.append(row)
    return [names[row] for row in kept]
