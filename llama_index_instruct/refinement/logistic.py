"""Logistic regression around a query, solved by Newton's method in the k-dimensional dual. Pure numpy.

With a Gaussian prior the solution is ``scale * query + passages^T a / precision``: only the k numbers ``a`` are unknown, and
everything is said in inner products of the passages. This is Gaussian-process classification with a linear kernel
(Rasmussen and Williams 2006, algorithm 3.1), whose posterior also tells how uncertain the relevance of any other passage is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.errors import ConfigurationError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LogisticPrior:
    """The prior of the regression.

    Attributes:
        scale: Logits per unit of cosine that the original query is given.
        precision: Of the Gaussian around it; smaller lets the judgements move it further.
        intercept_precision: Of the Gaussian on the intercept; small leaves the share of relevant passages open.
    """

    scale: float = 4.0
    precision: float = 0.05
    intercept_precision: float = 0.01

    def __post_init__(self) -> None:
        for name in ("scale", "precision", "intercept_precision"):
            value = getattr(self, name)
            if not 1e-6 <= value <= 1e6:
                raise ConfigurationError(f"{name}: expected 1e-6 to 1e6, found {value}")


# For foretelling the relevance of passages from that of others: tighter than the solver's, since it has less to go by.
FORETELLING = LogisticPrior(scale=8.0, precision=0.1)


@dataclass(frozen=True)
class LogisticFit:
    """The solution and the posterior around it.

    Attributes:
        weights: Shape (d,).
        intercept: Logit of a passage at right angles to the weights.
        curvature: Second derivative of the loss in each judged logit, shape (k,).
        converged: Whether the last step was below the tolerance.
    """

    weights: FloatArray
    intercept: float
    curvature: FloatArray
    converged: bool


def fit_logistic(
    query: FloatArray,
    passages: FloatArray,
    relevance: FloatArray,
    prior: LogisticPrior,
    *,
    max_iterations: int = 25,
    tolerance: float = 1e-3,
) -> LogisticFit:
    """Return the maximum of the posterior, see ``objectives.logistic_loss``.

    Args:
        query: Shape (d,), unit norm.
        passages: Shape (k, d), unit rows.
        relevance: Shape (k,), in [0, 1].
        prior: The prior.
        max_iterations: Newton steps.
        tolerance: Stop when no logit moves by more than this.
    """
    count = len(passages)
    kernel = passages @ passages.T / prior.precision + 1.0 / prior.intercept_precision
    cosines = passages @ query
    prior_logits = prior.scale * (cosines - cosines.mean())
    dual, logits = np.zeros(count), prior_logits
    loss = _loss(dual, logits, prior_logits, relevance)
    diagonal = np.arange(count)
    converged = False
    for _ in range(max_iterations):
        probability = sigmoid(logits)
        curvature = _curvature(probability)
        system = curvature[:, None] * kernel
        system[diagonal, diagonal] += 1.0
        target = np.linalg.solve(system, curvature * (logits - prior_logits) + relevance - probability)
        dual, logits, loss, moved = _step(dual, target, kernel, prior_logits, relevance, loss)
        if moved < tolerance:
            converged = True
            break
    return LogisticFit(
        weights=prior.scale * query + dual @ passages / prior.precision,
        intercept=float(dual.sum() / prior.intercept_precision - prior.scale * cosines.mean()),
        curvature=_curvature(sigmoid(logits)),
        converged=converged,
    )


def _step(
    dual: FloatArray,
    target: FloatArray,
    kernel: FloatArray,
    prior_logits: FloatArray,
    relevance: FloatArray,
    loss: float,
) -> tuple[FloatArray, FloatArray, float, float]:
    """Go from dual towards target, half as far each time the loss would rise; return the new state and the move."""
    before = kernel @ dual
    length = 1.0
    change = kernel @ target - before
    for _ in range(12):
        stepped = dual + length * (target - dual)
        logits = prior_logits + before + length * change
        reached = _loss(stepped, logits, prior_logits, relevance)
        if reached <= loss + 1e-10:
            break
        length *= 0.5
    return stepped, logits, reached, float(np.abs(length * change).max())


def _loss(dual: FloatArray, logits: FloatArray, prior_logits: FloatArray, relevance: FloatArray) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - relevance * logits) + 0.5 * dual @ (logits - prior_logits))


def _curvature(probability: FloatArray) -> FloatArray:
    # A floor keeps the system regular where a logit is saturated.
    return np.maximum(probability * (1.0 - probability), 1e-6)
