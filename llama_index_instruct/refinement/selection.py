"""Which candidates to judge next. Pure numpy.

What is judged matters more than how the vector is solved for. The first round takes the top of the ranking; every further
one takes, one after the other, the candidate with the highest upper confidence bound: its predicted logit plus a multiple of
its posterior standard deviation. Picking a candidate shrinks the uncertainty of those like it, so near-duplicates are not
paid for twice. The multiple grows with the share judged relevant so far: where much is relevant it pays to look around,
where little is, to stay near the top.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.refinement.logistic import LogisticPrior, fit_logistic

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SelectionSettings:
    """How far to look around.

    Attributes:
        exploration: Standard deviations added to the logit when half of the judged passages are relevant.
        adaptation: Power of the share judged relevant by which it grows; 0 = always the same.
        window: Best-predicted unjudged candidates among which to choose.
        prior: Of the regression that predicts; tighter than the solver's, since it predicts from half of the judgements.
    """

    exploration: float = 2.0
    adaptation: float = 1.5
    window: int = 40
    prior: LogisticPrior = field(default_factory=lambda: LogisticPrior(scale=8.0, precision=0.1))

    def __post_init__(self) -> None:
        if self.exploration < 0.0 or self.adaptation < 0.0 or self.window < 1:
            raise ConfigurationError(
                "selection: expected exploration and adaptation of 0 or more and a window of 1 or more, found "
                f"{self.exploration}, {self.adaptation}, {self.window}"
            )


def split_budget(judged: int, rounds: int) -> list[int]:
    """Return how many candidates each round judges; earlier rounds take the remainder.

    Example:
        >>> split_budget(20, 3)
        [7, 7, 6]
    """
    return [judged // rounds + (r < judged % rounds) for r in range(rounds)]


def select_candidates(
    query: FloatArray,
    candidates: FloatArray,
    judged: npt.NDArray[np.intp],
    relevance: FloatArray,
    count: int,
    settings: SelectionSettings,
) -> npt.NDArray[np.intp]:
    """Return the rows of the candidates to judge next.

    Args:
        query: Shape (d,), unit norm.
        candidates: Shape (n, d), unit rows, best first.
        judged: Shape (k,), rows already shown to the teacher.
        relevance: Shape (k,), what it said; NaN = no judgement.
        count: How many to pick.
        settings: How far to look around.

    Returns:
        Shape (at most count,), in the order of picking; never a judged row.
    """
    unjudged = np.setdiff1d(np.arange(len(candidates)), judged)
    known = ~np.isnan(relevance)
    if not known.any():
        return unjudged[:count]
    examples, answers = candidates[judged[known]], relevance[known]
    fit = fit_logistic(query, examples, answers, settings.prior)
    logits = candidates @ fit.weights + fit.intercept
    window = unjudged[np.argsort(-logits[unjudged], kind="stable")[: settings.window]]
    rows = candidates[window]
    across = rows @ examples.T / settings.prior.precision
    inside = examples @ examples.T / settings.prior.precision + np.diag(1.0 / fit.curvature)
    covariance = rows @ rows.T / settings.prior.precision - across @ np.linalg.solve(inside, across.T)
    breadth = settings.exploration * (2.0 * float(answers.mean())) ** settings.adaptation
    return window[_upper_confidence_picks(logits[window], covariance, count, breadth)]


def _upper_confidence_picks(
    logits: FloatArray, covariance: FloatArray, count: int, breadth: float
) -> npt.NDArray[np.intp]:
    """Return the picks, conditioning the covariance on each as if it had been judged."""
    picked: list[int] = []
    open_ = np.ones(len(logits), dtype=bool)
    noise = 1.0 / np.maximum(sigmoid(logits) * sigmoid(-logits), 1e-2)
    for _ in range(min(count, len(logits))):
        deviation = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
        bound = np.where(open_, logits + breadth * deviation, -np.inf)
        best = int(np.argmax(bound))
        picked.append(best)
        open_[best] = False
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / (column[best] + noise[best])
    return np.array(picked, dtype=np.intp)
