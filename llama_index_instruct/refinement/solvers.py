"""refine_query(): judged passages move a query vector. Pure numpy; no LlamaIndex, no Qdrant, no LLM.

Measured beside the published loop by ``llama-index-instruct bench refinement``; README has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.arithmetic import softmax
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.refinement.agreement import agreement, left_out_logits, softened
from llama_index_instruct.refinement.changes import ScoreChanges
from llama_index_instruct.refinement.inputs import unit_query_of, unit_rows_of, usable_judgements, why_uninformative
from llama_index_instruct.refinement.logistic import FORETELLING, fit_logistic
from llama_index_instruct.refinement.lowering import lowered_scores
from llama_index_instruct.refinement.objectives import kl_loss, logistic_loss
from llama_index_instruct.refinement.settings import (
    KLSettings,
    LogisticSettings,
    Method,
    RocchioSettings,
    Settings,
    make_settings,
)

FloatArray = npt.NDArray[np.float64]

# Judgements that agree no better than the first say nothing for the judge, those that agree as well as the second all there
# is to say.
DOUBTFUL_AGREEMENT, CLEAR_AGREEMENT = 0.6, 0.8
NO_CHANGE = "the judgements agree with the query as it is, or no turn is allowed"
# Twice as many change the vector of the KL method by less than 1e-3.
GEODESIC_HOPS = 5


@dataclass(frozen=True)
class RefinedQuery:
    """A query vector after refinement.

    Attributes:
        vector: Shape (d,), float32, unit norm.
        angle: How far it was turned, in radians.
        loss_before: The method's objective at the original query; for ``logistic`` on the answers as far as they are believed.
        loss_after: The same at ``vector``; for ``logistic`` at the solution that the query is turned towards.
        method: Which objective.
        converged: Whether the solver met its own stopping rule.
        moved: Whether the query was changed at all.
        reason: Why it was not changed; empty if it was.
        foretold: Shape (k,), for each given passage the logit of a yes that the other answers foretell; NaN where it was
            left out, and throughout where the judgements make no difference or the method is not ``logistic``.
    """

    vector: npt.NDArray[np.float32]
    angle: float
    loss_before: float
    loss_after: float
    method: str
    converged: bool
    moved: bool
    reason: str = ""
    foretold: FloatArray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class _Solution:
    direction: FloatArray
    loss_before: float
    loss_after: float
    converged: bool
    max_angle: float
    foretold: FloatArray | None = None


def refine_query(
    query: npt.ArrayLike,
    passages: npt.ArrayLike,
    relevance: npt.ArrayLike,
    *,
    method: Method = "logistic",
    others: npt.ArrayLike | None = None,
    **settings: Any,
) -> RefinedQuery:
    """Return the query vector moved so that relevant passages come before irrelevant ones.

    The order of the passages does not matter. A teacher that makes no difference between them (fewer than two judgements, or
    a spread of relevance below 0.1) leaves the query as it was and says so in ``reason``.

    Args:
        query: Shape (d,), any norm above 0.
        passages: Shape (k, d); rows of zeros, NaN or infinity are left out.
        relevance: Shape (k,), in [0, 1]; NaN = no judgement, left out.
        method: ``"logistic"``, ``"kl"`` or ``"rocchio"``.
        others: Shape (m, d): passages nobody judged, such as the other candidates of the search; rows of zeros, NaN or
            infinity are left out. ``logistic`` lowers rejected passages beneath the best of them and leaves the scores of the
            others nearly as they are; the other methods have no use for them.
        **settings: Fields of ``LogisticSettings``, ``KLSettings`` or ``RocchioSettings``; unknown names are refused.

    Raises:
        ConfigurationError: If the query is zero or not finite, relevance is outside [0, 1], or a setting is wrong.
        DimensionMismatchError: If the shapes do not fit.

    Example:
        >>> refined = refine_query([1.0, 0.0, 0.0], [[0.8, 0.6, 0.0], [0.8, 0.0, 0.6]], [1.0, 0.0])
        >>> bool(refined.moved and refined.vector[1] > 0 > refined.vector[2])
        True
    """
    chosen = make_settings(method, settings)
    unit_query = unit_query_of(query)
    rows, targets, usable = usable_judgements(unit_query, passages, relevance)
    foretold = np.full(len(usable), np.nan)
    unjudged = unit_rows_of(unit_query, () if others is None else others, "others")
    reason = why_uninformative(targets)
    if reason:
        vector = _float32(unit_query)
        return RefinedQuery(
            vector, 0.0, 0.0, 0.0, method, converged=True, moved=False, reason=reason, foretold=foretold
        )
    solution = _SOLVERS[method](unit_query, rows, targets, unjudged, chosen)
    vector64, angle = rotate_towards(unit_query, solution.direction, solution.max_angle)
    if not np.all(np.isfinite(vector64)):
        raise ConfigurationError(
            "refine_query: the solution is not finite; check the settings and the scale of the vectors"
        )
    if solution.foretold is not None:
        foretold[usable] = solution.foretold
    moved = angle > 0.0
    return RefinedQuery(
        vector=_float32(vector64),
        angle=angle,
        loss_before=solution.loss_before,
        loss_after=solution.loss_after,
        method=method,
        converged=solution.converged,
        moved=moved,
        reason="" if moved else NO_CHANGE,
        foretold=foretold,
    )


def rotate_towards(start: FloatArray, target: FloatArray, max_angle: float) -> tuple[FloatArray, float]:
    """Return the unit vector on the arc from start to target, at most ``max_angle`` away, and its angle.

    Args:
        start: Shape (d,), unit norm.
        target: Shape (d,), any norm above 0.
        max_angle: Radians.

    Example:
        >>> vector, angle = rotate_towards(np.array([1.0, 0.0]), np.array([0.0, 2.0]), np.pi / 2)
        >>> vector.round(6).tolist(), round(angle, 4)
        ([0.0, 1.0], 1.5708)
    """
    unit = target / np.linalg.norm(target)
    aside = unit - (unit @ start) * start
    sine = float(np.linalg.norm(aside))
    angle = float(np.arctan2(sine, unit @ start))
    if sine < 1e-12:
        return start, 0.0
    turned = min(angle, max_angle)
    vector = np.cos(turned) * start + np.sin(turned) * (aside / sine)
    return vector / np.linalg.norm(vector), turned


def _solve_logistic(
    query: FloatArray, passages: FloatArray, relevance: FloatArray, others: FloatArray, settings: Settings
) -> _Solution:
    assert isinstance(settings, LogisticSettings)
    prior = settings.prior
    first = fit_logistic(query, passages, relevance, FORETELLING)
    foretold = left_out_logits(passages, relevance, first, FORETELLING)
    target = softened(relevance, foretold, settings.judge_error)
    fit = fit_logistic(
        query,
        passages,
        target,
        prior,
        max_iterations=settings.max_iterations,
        tolerance=settings.tolerance,
    )

    def loss(weights: FloatArray, intercept: float) -> float:
        return logistic_loss(
            weights,
            intercept,
            query,
            passages,
            target,
            scale=prior.scale,
            precision=prior.precision,
            intercept_precision=prior.intercept_precision,
        )[0]

    before = loss(prior.scale * query, -prior.scale * float(np.mean(passages @ query)))
    direction, _ = rotate_towards(query, fit.weights, angle_at(agreement(relevance, foretold), settings))
    down = lowered_scores(passages @ direction, relevance, 1.0 - target, others @ direction, settings.lowering)
    if down.any():
        wanted = np.concatenate([np.zeros(len(others)), down])
        direction = direction + ScoreChanges(np.concatenate([others, passages])).query_change(wanted)
    after = loss(fit.weights, fit.intercept)
    return _Solution(direction, before, after, fit.converged, settings.max_angle, foretold)


def angle_at(agreed: float, settings: LogisticSettings) -> float:
    """Return how far, in radians, judgements that agree so far turn the query; see ``agreement``."""
    credit = (agreed - DOUBTFUL_AGREEMENT) / (CLEAR_AGREEMENT - DOUBTFUL_AGREEMENT)
    doubted = min(settings.doubted_angle, settings.max_angle)
    return doubted + min(max(credit, 0.0), 1.0) * (settings.max_angle - doubted)


def _solve_kl(
    query: FloatArray, passages: FloatArray, relevance: FloatArray, _others: FloatArray, settings: Settings
) -> _Solution:
    assert isinstance(settings, KLSettings)
    teacher = softmax(relevance)
    before, gradient = kl_loss(query, passages, teacher)
    if settings.steps is not None:
        end = _adam(query, passages, teacher, settings.steps, settings.learning_rate)
        after, _ = kl_loss(end, passages, teacher)
        return _Solution(end, before, after, converged=True, max_angle=np.pi)
    # A few short rotations down the gradient, which is at right angles to the position, follow the geodesic.
    position, loss = query, before
    for _ in range(GEODESIC_HOPS):
        if np.linalg.norm(gradient) < 1e-12:
            break
        step, _ = rotate_towards(position, -gradient, settings.angle / GEODESIC_HOPS)
        after, downhill = kl_loss(step, passages, teacher)
        if after >= loss:
            break
        position, loss, gradient = step, after, downhill
    return _Solution(position, before, loss, converged=True, max_angle=settings.max_angle)


def _adam(query: FloatArray, passages: FloatArray, teacher: FloatArray, steps: int, rate: float) -> FloatArray:
    """The released optimiser: Adam with betas (0.9, 0.999), epsilon 1e-8, no decay, no normalisation between steps."""
    position = query.copy()
    mean, square = np.zeros_like(query), np.zeros_like(query)
    for step in range(1, steps + 1):
        _, gradient = kl_loss(position, passages, teacher)
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient * gradient - square)
        size = np.sqrt(square / (1.0 - 0.999**step)) + 1e-8
        position = position - rate * (mean / (1.0 - 0.9**step)) / size
    return position


def _solve_rocchio(
    query: FloatArray, passages: FloatArray, relevance: FloatArray, _others: FloatArray, settings: Settings
) -> _Solution:
    assert isinstance(settings, RocchioSettings)
    target = query.copy()
    for weight, counts in ((settings.positive, relevance), (-settings.negative, 1.0 - relevance)):
        if counts.sum() > 0.0:
            target = target + weight * (counts @ passages) / counts.sum()

    def loss(vector: FloatArray) -> float:
        # The target is the vector of its own length that maximises the weighted similarities it is made of.
        return -float(target @ vector) / float(np.linalg.norm(vector))

    return _Solution(target, loss(query), loss(target), converged=True, max_angle=settings.max_angle)


_SOLVERS: dict[str, Callable[[FloatArray, FloatArray, FloatArray, FloatArray, Settings], _Solution]] = {
    "logistic": _solve_logistic,
    "kl": _solve_kl,
    "rocchio": _solve_rocchio,
}


def _float32(vector: FloatArray) -> npt.NDArray[np.float32]:
    return vector.astype(np.float32)
