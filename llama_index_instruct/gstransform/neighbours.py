"""Classes of unlabelled vectors, as their labelled neighbours suggest: kernel ridge regression over landmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from llama_index_instruct.rows import unit_rows

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

# The middle of a flat optimum over the faceted sets, with the kernel exp(-|x - y|^2) on unit vectors.
PENALTY = 0.3
# Points that carry the solution. All 3,000 labelled ones gain 0.3 points of NMI and 0.2 of precision for twice the time.
LANDMARKS = 600
BLOCK = 2048


def propagate(labelled: FloatArray, membership: FloatArray, unlabelled: FloatArray) -> FloatArray:
    """Return one class per unlabelled row, as a membership matrix of zeros and ones, shape (m, C).

    A kernel teacher bends where a linear one cannot; the linear map then learns from its guesses on many more vectors than were
    labelled. Solved on a subset of regressors (Rasmussen and Williams, Gaussian Processes for Machine Learning, section 8.3.1).

    Args:
        labelled: Shape (n, d); brought to unit length here.
        membership: Shape (n, C), rows sum to 1.
        unlabelled: Shape (m, d).
    """
    # float32 halves the time of the products; the ridge keeps the system well conditioned.
    points = unit_rows(labelled).astype(np.float32)
    landmarks = points[np.linspace(0, len(points) - 1, min(len(points), LANDMARKS)).astype(np.intp)]
    prior = membership.mean(axis=0)
    features = _kernel(points, landmarks)
    system = features.T @ features + PENALTY * _kernel(landmarks, landmarks)
    # Repeated texts make it singular without this.
    system[np.diag_indices(len(system))] += 1e-3
    dual = cho_solve(cho_factor(system), features.T @ (membership - prior).astype(np.float32))
    guesses = np.zeros((len(unlabelled), membership.shape[1]))
    for start in range(0, len(unlabelled), BLOCK):
        scores = _kernel(unit_rows(unlabelled[start : start + BLOCK]).astype(np.float32), landmarks) @ dual + prior
        guesses[np.arange(start, start + len(scores)), scores.argmax(axis=1)] = 1.0
    return guesses


def _kernel(a: Float32Array, b: Float32Array) -> Float32Array:
    # In place: the matrix is large, and every copy of it costs as much as the product.
    values = a @ b.T
    values *= 2.0
    values -= (a**2).sum(axis=1)[:, None]
    values -= (b**2).sum(axis=1)
    np.minimum(values, 0.0, out=values)
    np.exp(values, out=values)
    return values
