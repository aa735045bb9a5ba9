"""The formulas of query refinement, with closed gradients. Arrays in, arrays out.

Shapes: query (d,), passages (k, d) with unit rows, relevance (k,) in [0, 1].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llama_index_instruct.arithmetic import sigmoid, softmax

FloatArray = npt.NDArray[np.float64]

# The paper's code adds this inside both logarithms.
LOG_FLOOR = 1e-8


def kl_loss(query: FloatArray, passages: FloatArray, teacher: FloatArray) -> tuple[float, FloatArray]:
    """Return KL(teacher || student) and its gradient (arXiv 2605.12487, objective of the query update).

    The student is the softmax of the passages' cosines with the query, at temperature 1.

    Args:
        query: Shape (d,), any norm above 0.
        passages: Shape (k, d), unit rows.
        teacher: Shape (k,), a distribution: the softmax of the relevance.

    Returns:
        The loss, and its gradient in the query, shape (d,).
    """
    norm = float(np.linalg.norm(query))
    direction = query / norm
    cosines = passages @ direction
    student = softmax(cosines)
    loss = float(np.sum(teacher * np.log((teacher + LOG_FLOOR) / (student + LOG_FLOOR))))
    by_student = -teacher / (student + LOG_FLOOR)
    by_cosine = student * (by_student - student @ by_student)
    gradient = (passages.T @ by_cosine - direction * (cosines @ by_cosine)) / norm
    return loss, gradient


def logistic_loss(
    weights: FloatArray,
    intercept: float,
    query: FloatArray,
    passages: FloatArray,
    relevance: FloatArray,
    *,
    scale: float,
    precision: float,
    intercept_precision: float,
) -> tuple[float, FloatArray, float]:
    """Return the negative log-posterior of logistic regression around the query, and its gradient.

    Model: relevance_i ~ Bernoulli(sigmoid(weights . passage_i + intercept)), weights ~ N(scale * query, I / precision),
    intercept ~ N(-mean(scale * query . passages), 1 / intercept_precision).

    Args:
        weights: Shape (d,).
        intercept: The intercept.
        query: Shape (d,), unit norm.
        passages: Shape (k, d).
        relevance: Shape (k,), in [0, 1]; fractions are soft labels.
        scale: Logits per unit of cosine that the original query is given.
        precision: Of the Gaussian prior on the weights.
        intercept_precision: Of the Gaussian prior on the intercept.

    Returns:
        The loss, its gradient in the weights, shape (d,), and in the intercept.
    """
    centre = -float(np.mean(scale * (passages @ query)))
    logits = passages @ weights + intercept
    shift = weights - scale * query
    # log(1 + exp(z)) - y z is the cross-entropy of a Bernoulli with logit z.
    loss = float(np.sum(np.logaddexp(0.0, logits) - relevance * logits))
    loss += 0.5 * precision * float(shift @ shift) + 0.5 * intercept_precision * (intercept - centre) ** 2
    error = sigmoid(logits) - relevance
    gradient = passages.T @ error + precision * shift
    return loss, gradient, float(error.sum() + intercept_precision * (intercept - centre))
