"""Two functions that several rooms need, without overflow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def softmax(logits: FloatArray) -> FloatArray:
    """Return exp(logits) over its sum along the last axis, shape as given.

    Example:
        >>> softmax(np.array([0.0, 0.0]))
        array([0.5, 0.5])
    """
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-logits)) without overflow, shape as given; NaN stays NaN.

    Example:
        >>> sigmoid(np.array([0.0, -1e9]))
        array([0.5, 0. ])
    """
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
