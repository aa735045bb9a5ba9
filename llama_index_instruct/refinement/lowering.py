"""Passages that were rejected leave the head of the ranking, and hardly anything else moves. Pure numpy.

Turning the query tells which way is better in general. A passage judged irrelevant that still ranks high is a particular: in
hundreds of dimensions the query can give way to it alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# The best of the others, as a share of them: where rejected passages have no place.
HEAD = 0.2
# Penalty on the squared length of the change, beside squared changes of scores. Twice or half of it makes no difference.
STIFFNESS = 0.02


def lower_rejected(
    query: FloatArray, passages: FloatArray, relevance: FloatArray, others: FloatArray, part: float
) -> FloatArray:
    """Return the query vector changed as little as possible so that rejected passages leave the head of the others.

    Ridge regression of the change on the changes of scores that are wanted: none for passages judged relevant and for those
    nobody judged; for a rejected one the way down out of the head, or a part of it, in the measure it is believed irrelevant.

    Args:
        query: Shape (d,), unit norm.
        passages: Shape (k, d), unit rows: the judged ones.
        relevance: Shape (k,), in [0, 1]; below 0.5 = rejected.
        others: Shape (m, d), unit rows: not judged; none = nothing is changed.
        part: Of the way out of the head, in [0, 1].

    Returns:
        Shape (d,), not of unit norm.
    """
    if len(others) == 0:
        return query
    threshold = np.sort(others @ query)[::-1][min(int(HEAD * len(others)), len(others) - 1)]
    wanted = part * np.minimum(threshold - passages @ query, 0.0) * (1.0 - relevance)
    rejected = (relevance < 0.5) & (wanted < 0.0)
    if not rejected.any():
        return query
    rows = np.concatenate([others, passages[relevance >= 0.5], passages[rejected]])
    changes = np.concatenate([np.zeros(len(rows) - int(rejected.sum())), wanted[rejected]])
    dual = np.linalg.solve(rows @ rows.T + STIFFNESS * np.eye(len(rows)), changes)
    return np.asarray(query + rows.T @ dual)
