"""Which candidates to judge next. Pure numpy.

What is judged matters more than how the vector is solved for. Candidates are taken one after the other, each time the one
with the highest upper confidence bound: its predicted logit plus a multiple of its posterior standard deviation. Picking a
candidate shrinks the uncertainty of those like it, so near-duplicates are not paid for twice. The multiple grows with the
share judged relevant so far: where much is relevant it pays to look around, where little is, to stay near the top; in the first
round it is zero unless asked for, which gives the top of the ranking. Where nothing was relevant at all the top is the wrong
place, and each pick is the likeliest if everything before it, judged or picked, is irrelevant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.refinement.logistic import FORETELLING, LogisticPrior, fit_logistic

FloatArray = npt.NDArray[np.float64]

# When all have failed, what resembles them must fall by as much as its similarity says: no intercept takes the blame.
ALL_FAILED = LogisticPrior(scale=16.0, precision=0.1, intercept_precision=100.0)


@dataclass(frozen=True)
class SelectionSettings:
    """How far to look around.

    Attributes:
        exploration: Standard deviations added to the logit when half of the judged passages are relevant.
        first_exploration: The same in the first round, when nothing is judged; 0 = the top of the ranking. 1 is better with a
            judge that is hardly ever wrong.
        adaptation: Power of the share judged relevant by which it grows; 0 = always the same.
        window: Best-predicted unjudged candidates among which to choose; all of them where nothing was relevant so far.
        prior: Of the regression that predicts; tighter than the solver's, since it predicts from half of the judgements.
    """

    exploration: float = 2.5
    first_exploration: float = 0.0
    adaptation: float = 1.5
    window: int = 40
    prior: LogisticPrior = FORETELLING

    def __post_init__(self) -> None:
        if min(self.exploration, self.first_exploration, self.adaptation) < 0.0 or self.window < 1:
            raise ConfigurationError(
                "selection: expected exploration, first_exploration and adaptation of 0 or more and a window of 1 or more, "
                f"found {self.exploration}, {self.first_exploration}, {self.adaptation}, {self.window}"
            )


# For a judge that is hardly ever wrong: the first round looks around too.
TRUSTED_SELECTION = SelectionSettings(first_exploration=1.0)


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
        return _first_picks(query, candidates, unjudged, count, settings)
    examples, answers = candidates[judged[known]], relevance[known]
    if answers.max() < 0.5:
        return _picks_after_failures(query, candidates, examples, answers, unjudged, count)
    fit = fit_logistic(query, examples, answers, settings.prior)
    logits = candidates @ fit.weights + fit.intercept
    window = _best(logits, unjudged, settings.window)
    rows = candidates[window]
    across = rows @ examples.T / settings.prior.precision
    inside = examples @ examples.T / settings.prior.precision + np.diag(1.0 / fit.curvature)
    covariance = rows @ rows.T / settings.prior.precision - across @ np.linalg.solve(inside, across.T)
    breadth = settings.exploration * (2.0 * float(answers.mean())) ** settings.adaptation
    return window[_upper_confidence_picks(logits[window], covariance, count, breadth)]


def _first_picks(
    query: FloatArray, candidates: FloatArray, unjudged: npt.NDArray[np.intp], count: int, settings: SelectionSettings
) -> npt.NDArray[np.intp]:
    count = min(count, len(unjudged))
    if settings.first_exploration == 0.0 or count == 0:
        return unjudged[:count]
    logits = settings.prior.scale * (candidates @ query)
    window = _best(logits, unjudged, settings.window)
    rows = candidates[window]
    centred = logits[window] - logits[window[:count]].mean()
    return window[
        _upper_confidence_picks(centred, rows @ rows.T / settings.prior.precision, count, settings.first_exploration)
    ]


def _picks_after_failures(
    query: FloatArray,
    candidates: FloatArray,
    failed: FloatArray,
    answers: FloatArray,
    unjudged: npt.NDArray[np.intp],
    count: int,
) -> npt.NDArray[np.intp]:
    picked: list[int] = []
    for _ in range(min(count, len(unjudged))):
        fit = fit_logistic(query, failed, answers, ALL_FAILED)
        open_ = np.setdiff1d(unjudged, picked)
        best = int(open_[np.argmax(candidates[open_] @ fit.weights)])
        picked.append(best)
        failed, answers = np.vstack([failed, candidates[best]]), np.append(answers, 0.0)
    return np.array(picked, dtype=np.intp)


def _best(logits: FloatArray, rows: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    return rows[np.argsort(-logits[rows], kind="stable")[:count]]


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
