"""Small changes of a query vector that change the scores of passages as wanted. Pure numpy.

In hundreds of dimensions a query can give way to some passages and leave the scores of a hundred others where they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Penalty on the squared length of the change, beside squared errors of scores; larger follows the wishes less.
STIFFNESS = 0.02


class ScoreChanges:
    """Ridge regression of wanted changes of scores on passages; the costly half of the work is done once, before any wish.

    The change found minimises the sum of squared differences between the changes of the passages' scores and the wanted ones,
    plus ``STIFFNESS`` times its own squared length.

    Args:
        passages: Shape (n, d), unit rows.

    Example:
        >>> ScoreChanges(np.eye(3)).query_change(np.array([0.0, 0.5, 0.0])).round(2).tolist()
        [0.0, 0.49, 0.0]
    """

    def __init__(self, passages: FloatArray) -> None:
        self._passages = passages
        count, dimension = passages.shape
        # The smaller of two systems, n x n or d x d, which have the same solution.
        self._few = count <= dimension
        rows = passages if self._few else passages.T
        self._inverse = np.linalg.inv(rows @ rows.T + STIFFNESS * np.eye(len(rows)))

    def query_change(self, wanted: FloatArray) -> FloatArray:
        """Return the change (d,) of a query whose inner products with the passages should change so, shape (n,)."""
        if self._few:
            return np.asarray(self._passages.T @ (self._inverse @ wanted))
        return np.asarray(self._inverse @ (self._passages.T @ wanted))
