"""``method="fisher"``: linear discriminant analysis, regularised, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.gstransform.classes import Classes

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FisherSettings:
    """Settings of ``method="fisher"``.

    Attributes:
        shrinkage: Added to the within-class covariance, as a multiple of its mean variance.

    Raises:
        ConfigurationError: If it is not positive.
    """

    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.shrinkage) and self.shrinkage > 0):
            raise ConfigurationError(f"shrinkage: expected a positive number, found {self.shrinkage}")


def fit_fisher(vectors: FloatArray, classes: Classes, settings: FisherSettings) -> tuple[FloatArray, FloatArray]:
    """Return the discriminant directions, shape (C - 1 or fewer, d), and the overall mean, shape (d,).

    Vectors are whitened by the within-class covariance; the principal directions of the class means in that space, weighted
    by class size, are kept.

    Args:
        vectors: Shape (n, d), float64; rows without a label are left out.
        classes: n rows.
        settings: See ``FisherSettings``.
    """
    labelled = classes.labelled
    known, membership = vectors[labelled], classes.membership[labelled]
    share = membership.sum(axis=0) / len(known)
    mean = known.mean(axis=0)
    centres = (membership / membership.sum(axis=0)).T @ known
    within = known - membership @ centres
    covariance = within.T @ within / len(known)
    ridge = settings.shrinkage * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    variances, basis = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    whitener = basis / np.sqrt(variances)
    between = np.sqrt(share)[:, None] * ((centres - mean) @ whitener)
    _, strengths, directions = np.linalg.svd(between, full_matrices=False)
    kept = max(1, min(len(share) - 1, int((strengths > 1e-9 * strengths[0]).sum())))
    return np.ascontiguousarray((whitener @ directions[:kept].T).T), mean
