"""Passages that were rejected leave the head of the ranking, and hardly any other candidate moves. Pure numpy.

Turning the query tells which way is better in general. A passage judged irrelevant that still ranks high is a particular: in
hundreds of dimensions the query can give way to it alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# The best of the candidates nobody judged, as a share of them: where rejected passages have no place.
HEAD = 0.2
# Penalty on the squared length of the change, beside squared changes of scores; larger leaves rejected passages higher.
STIFFNESS = 0.02


def lower_rejected(
    query: FloatArray, passages: FloatArray, answers: FloatArray, wrong: FloatArray, others: FloatArray, part: float
) -> FloatArray:
    """Return the query vector changed as little as possible so that rejected passages leave the head of the others.

    Ridge regression of the change on the changes of scores that are wanted: none for passages judged relevant and for those
    nobody judged; for a rejected one the way down out of the head, or a part of it, in the measure the answer is believed.

    Args:
        query: Shape (d,), unit norm.
        passages: Shape (k, d), unit rows: the judged ones.
        answers: Shape (k,), relevance in [0, 1]; below 0.5 = rejected.
        wrong: Shape (k,), in [0, 1]: the probability that a passage is irrelevant, see ``agreement.believed``.
        others: Shape (m, d), unit rows: not judged; none = nothing is changed.
        part: Of the way out of the head, in [0, 1].

    Returns:
        Shape (d,), not of unit norm.
    """
    if len(others) == 0:
        return query
    threshold = np.sort(others @ query)[::-1][min(int(HEAD * len(others)), len(others) - 1)]
    wanted = np.where(answers < 0.5, part * wrong * np.minimum(threshold - passages @ query, 0.0), 0.0)
    if not wanted.any():
        return query
    rows, changes = np.concatenate([others, passages]), np.concatenate([np.zeros(len(others)), wanted])
    return np.asarray(query + _ridge(rows, changes))


def _ridge(rows: FloatArray, targets: FloatArray) -> FloatArray:
    """Return the weights (d,) by the smaller of the two systems, n x n or d x d, which have the same solution."""
    count, dimension = rows.shape
    if count <= dimension:
        return np.asarray(rows.T @ np.linalg.solve(rows @ rows.T + STIFFNESS * np.eye(count), targets))
    return np.asarray(np.linalg.solve(rows.T @ rows + STIFFNESS * np.eye(dimension), rows.T @ targets))
