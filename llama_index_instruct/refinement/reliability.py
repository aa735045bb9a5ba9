"""How often a judge is wrong, without one known answer: many queries' judgements, each foretold from the others. Numbers only.

One query cannot tell a wrong answer from a right one that is alone; hundreds of queries can tell how many wrong ones there are.
A judge that errs at random is wrong as often where the other answers leave no doubt as anywhere else, so even there it
contradicts them. How often it does so is its error; how sharply the others foretell is fitted along with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    from llama_index_instruct.refinement.trace import RefinementTrace

FloatArray = npt.NDArray[np.float64]

ERRORS = np.linspace(0.0, 0.45, 91)
# A twice as large loss of log-likelihood as this is exceeded by chance in one of twenty cases.
LIKELY = 1.92


@dataclass(frozen=True)
class JudgeError:
    """An estimate of how often a judge is wrong.

    Attributes:
        error: The likeliest share of wrong answers, in [0, 0.45].
        low: End of the 95 % interval, as if the answers to a query were independent; in truth it is somewhat wider.
        high: The other end.
        judgements: How many it rests on.
        queries: Of how many queries.
    """

    error: float
    low: float
    high: float
    judgements: int
    queries: int


def estimate_judge_error(traces: Iterable[RefinementTrace]) -> JudgeError:
    """Return how often the judge of these queries is wrong, estimated from how its answers contradict each other.

    Needs some hundreds of judged queries of the kind the app gets, under one judge, and no label. Queries whose answers were
    all alike, and those refined by another method than ``logistic``, say nothing. Where about one passage per query is relevant
    nothing can be foretold, and the estimate is too low; where the embedding model does not see what is asked for, too high.

    Args:
        traces: What ``RefinementRetriever.refine`` returned.

    Raises:
        ConfigurationError: If no judgement can be foretold.

    Example:
        >>> estimate_judge_error(map(retriever.refine, queries)).error  # doctest: +SKIP
        0.08
    """
    foretold: list[list[float]] = []
    answers: list[list[float]] = []
    for trace in traces:
        known = [judged for judged in trace.judgements if not np.isnan(judged.foretold)]
        if known:
            foretold.append([judged.foretold for judged in known])
            answers.append([judged.relevance for judged in known])
    if not foretold:
        raise ConfigurationError(
            "estimate_judge_error: expected traces with judgements that others foretell, found none; refine some hundreds of "
            "queries by method='logistic'"
        )
    return likeliest_error(foretold, answers)


def likeliest_error(foretold: Iterable[Iterable[float]], answers: Iterable[Iterable[float]]) -> JudgeError:
    """Return the estimate from the logits that other answers foretell and the answers in [0, 1], per query.

    Maximum a posteriori of ``P(yes) = error + (1 - 2 error) sigmoid(slope * logit + offset)``, with weak Gaussian priors on
    log(slope) and offset around 0, for each error on a grid.
    """
    logits, said = [np.asarray(list(row)) for row in foretold], [np.asarray(list(row)) for row in answers]
    z, y = np.concatenate(logits), np.concatenate(said)
    shape, losses = np.zeros(2), []
    for error in ERRORS:
        found = minimize(_loss, shape, args=(error, z, y), method="L-BFGS-B", bounds=[(-4.0, 4.0), (-8.0, 8.0)])
        shape = found.x
        losses.append(float(found.fun))
    best = int(np.argmin(losses))
    likely = ERRORS[np.array(losses) <= losses[best] + LIKELY]
    return JudgeError(float(ERRORS[best]), float(likely[0]), float(likely[-1]), len(y), len(logits))


def _loss(shape: FloatArray, error: float, logits: FloatArray, answers: FloatArray) -> float:
    log_slope, offset = shape
    yes = error + (1.0 - 2.0 * error) * sigmoid(np.exp(log_slope) * logits + offset)
    yes = np.clip(yes, 1e-9, 1.0 - 1e-9)
    return float(-(answers * np.log(yes) + (1.0 - answers) * np.log1p(-yes)).sum() + 0.5 * shape @ shape)
