"""Passages that were rejected leave the head of the ranking, and hardly any other candidate moves. Pure numpy.

Turning the query tells which way is better in general. A passage judged irrelevant that still ranks high is a particular, and
the query can give way to it alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# The best of the candidates nobody judged, as a share of them: where rejected passages have no place.
HEAD = 0.1


def lowered_scores(
    scores: FloatArray, answers: FloatArray, wrong: FloatArray, others: FloatArray, part: float
) -> FloatArray:
    """Return by how much the score of each judged passage should change, shape (k,), none above 0.

    A rejected passage goes down out of the head of the others, or a part of the way, in the measure the answer is believed.

    Args:
        scores: Shape (k,), of the judged passages.
        answers: Shape (k,), relevance in [0, 1]; below 0.5 = rejected.
        wrong: Shape (k,), in [0, 1]: the probability that a passage is irrelevant, see ``agreement.softened``.
        others: Shape (m,), scores of those nobody judged; none = nothing changes.
        part: Of the way out of the head, in [0, 1].

    Example:
        >>> lowered_scores(np.array([0.9, 0.8]), np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.full(10, 0.6), 0.5).round(2)
        array([ 0. , -0.1])
    """
    if len(others) == 0:
        return np.zeros(len(scores))
    threshold = np.sort(others)[::-1][min(int(HEAD * len(others)), len(others) - 1)]
    return np.asarray(np.where(answers < 0.5, part * wrong * np.minimum(threshold - scores, 0.0), 0.0))
