"""How far judgements agree with each other: an estimate of the judge's reliability, from one query. Pure numpy.

Each judgement is foretold from the others. A judge that answers at random cannot be foretold; one that follows something the
vectors see can. What comes out as foretold also tells which single answers to doubt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.refinement.logistic import LogisticFit, LogisticPrior

FloatArray = npt.NDArray[np.float64]

# No answer is foretold with more certainty than this.
SUREST = 0.99


def agreement(relevance: FloatArray, foretold: FloatArray) -> float:
    """Return the chance that the more relevant of two passages is foretold to be so.

    Args:
        relevance: Shape (k,), in [0, 1], not all equal.
        foretold: Shape (k,), logits, see ``left_out_logits``.

    Returns:
        A concordance in [0, 1]; 0.5 = nothing foretold. With answers of 0 and 1 it is the area under the ROC curve.
    """
    weight = np.maximum(relevance[:, None] - relevance[None, :], 0.0)
    difference = foretold[:, None] - foretold[None, :]
    right = (difference > 0.0) + 0.5 * (difference == 0.0)
    return float((weight * right).sum() / weight.sum())


def believed(relevance: FloatArray, foretold: FloatArray, error: float) -> FloatArray:
    """Return the probability that each passage is relevant, given the answer and what the other answers foretell.

    Bayes' rule for a judge that gives the wrong one of two answers with probability ``error``. A fractional answer is that
    mixture of yes and no.

    Args:
        relevance: Shape (k,), in [0, 1].
        foretold: Shape (k,), logits of a yes, see ``left_out_logits``.
        error: In [0, 0.5); 0 = every answer as it is.

    Example:
        >>> believed(np.array([1.0, 1.0, 0.0]), np.array([-3.0, 3.0, 3.0]), 0.02).round(2).tolist()
        [0.59, 1.0, 0.41]
    """
    if error == 0.0:
        return relevance
    # A yes is foretold for wrong answers too; this is the probability that the passage is relevant.
    before = np.clip((sigmoid(foretold) - error) / (1.0 - 2.0 * error), 1.0 - SUREST, SUREST)
    after_yes = before * (1.0 - error) / (before * (1.0 - error) + (1.0 - before) * error)
    after_no = before * error / (before * error + (1.0 - before) * (1.0 - error))
    return np.asarray(relevance * after_yes + (1.0 - relevance) * after_no)


def softened(relevance: FloatArray, foretold: FloatArray, error: float) -> FloatArray:
    """Return what is ``believed``, shape (k,), unless that turns the answers round as a whole: then the answers as they are.

    Each answer is doubted as if the others were right, so two that differ can talk each other down.

    Example:
        >>> softened(np.array([1.0, 0.0]), np.array([-3.0, 3.0]), 0.05).tolist()
        [1.0, 0.0]
    """
    doubted = believed(relevance, foretold, error)
    return doubted if (relevance - relevance.mean()) @ doubted > 0.0 else relevance


def left_out_logits(passages: FloatArray, relevance: FloatArray, fit: LogisticFit, prior: LogisticPrior) -> FloatArray:
    """Return each passage's logit, shape (k,), as the posterior without its own judgement has it.

    The posterior around the fit is Gaussian, one factor per judgement; taking one factor out is exact and needs no new fit
    (Rasmussen and Williams 2006, section 3.4 on Laplace, 5.4.2 on leaving out).

    Args:
        passages: Shape (k, d), unit rows.
        relevance: Shape (k,), in [0, 1].
        fit: Their logistic fit.
        prior: Its prior.
    """
    kernel = passages @ passages.T / prior.precision + 1.0 / prior.intercept_precision
    logits = passages @ fit.weights + fit.intercept
    covariance = kernel - kernel @ np.linalg.solve(kernel + np.diag(1.0 / fit.curvature), kernel)
    variance = np.maximum(covariance.diagonal(), 1e-12)
    own = fit.curvature * logits + relevance - sigmoid(logits)
    precision_without = np.maximum(1.0 / variance - fit.curvature, 1e-12)
    return np.asarray((logits / variance - own) / precision_without)
