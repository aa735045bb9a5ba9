"""Hits and their vectors -> the candidates that refinement may work with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode


@dataclass(frozen=True)
class Candidates:
    """Distinct hits with sound vectors, best first.

    Attributes:
        nodes: n of them.
        vectors: Shape (n, d), float32, finite and not zero.
        unusable: Ids of the hits left out because their vector is missing, zero or not finite.
    """

    nodes: list[BaseNode]
    vectors: npt.NDArray[np.float32]
    unusable: tuple[str, ...]


def usable_candidates(nodes: Sequence[BaseNode], vectors: npt.NDArray[np.float32]) -> Candidates:
    """Return the hits worth judging.

    Hits with the very same vector are one candidate: a text stored six times must not speak six times.

    Args:
        nodes: The hits, best first; an id may come twice.
        vectors: Shape (n, d), row i for node i; NaN where there is none.
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1) if vectors.size else np.full(len(nodes), np.nan)
    sound = np.isfinite(norms) & (norms > 0.0)
    seen: set[bytes] = set()
    rows: list[int] = []
    for row in np.flatnonzero(sound):
        key = vectors[row].tobytes()
        if key not in seen:
            seen.add(key)
            rows.append(int(row))
    unusable = dict.fromkeys(node.node_id for node, usable in zip(nodes, sound, strict=True) if not usable)
    return Candidates([nodes[row] for row in rows], vectors[rows], tuple(unusable))
