"""Settings of the solvers: one frozen dataclass per method, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.refinement.logistic import LogisticPrior

Method = Literal["logistic", "kl", "rocchio"]

# Largest rotation of the query, in radians: a cosine of 0.58 to the original is always kept.
MAX_ANGLE = 0.95


@dataclass(frozen=True)
class LogisticSettings:
    """Maximum-a-posteriori logistic regression on the judgements.

    How far the query is turned depends on how far the judgements agree with each other, see ``agreement``: from the doubted
    angle at an agreement of 0.6 or less to the largest at 0.8. Single answers that the others contradict count for less.

    Attributes:
        prior: How strongly the original query holds.
        max_angle: Largest rotation in all, in radians.
        doubted_angle: Largest rotation towards the solution when the judgements do not agree, if smaller; lowering rejected
            passages, and words where they are read, may turn it further, up to ``max_angle``.
        judge_error: Share of wrong answers that is reckoned with; 0 = every answer is taken as it is.
        lowering: How far passages judged irrelevant are lowered out of the head of those nobody judged, where
            ``refine_query`` is given such: 0 = not at all, 1 = all the way.
        max_iterations: Newton steps.
        tolerance: Stop when no logit moves by more than this.
    """

    prior: LogisticPrior = field(default_factory=LogisticPrior)
    max_angle: float = MAX_ANGLE
    doubted_angle: float = 0.45
    judge_error: float = 0.05
    lowering: float = 0.8
    max_iterations: int = 25
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        _check_range("max_angle", self.max_angle, 0.0, np.pi / 2)
        _check_range("doubted_angle", self.doubted_angle, 0.0, np.pi / 2)
        _check_range("judge_error", self.judge_error, 0.0, 0.45)
        _check_range("lowering", self.lowering, 0.0, 1.0)
        _check_range("max_iterations", self.max_iterations, 1, 10_000)


@dataclass(frozen=True)
class KLSettings:
    """The paper's objective (arXiv 2605.12487): KL between the softmax of relevance and the softmax of cosines.

    Attributes:
        angle: Length of the move along the geodesic, in radians; the objective has no useful minimum, so the length is the
            setting. Used unless ``steps`` is given.
        steps: Given, the released loop is followed instead: so many Adam steps.
        learning_rate: Of those steps.
        max_angle: Largest rotation, in radians, of the geodesic move; the released loop is not bounded.
    """

    angle: float = 0.4
    steps: int | None = None
    learning_rate: float = 1e-4
    max_angle: float = MAX_ANGLE

    def __post_init__(self) -> None:
        _check_range("angle", self.angle, 0.0, np.pi / 2)
        _check_range("max_angle", self.max_angle, 0.0, np.pi / 2)
        _check_range("learning_rate", self.learning_rate, 0.0, 1.0)
        if self.steps is not None:
            _check_range("steps", self.steps, 1, 1_000_000)


@dataclass(frozen=True)
class RocchioSettings:
    """Rocchio feedback: query + positive * (relevant centroid) - negative * (irrelevant centroid).

    Attributes:
        positive: Weight of the relevant centroid; each passage counts by its relevance.
        negative: Weight of the irrelevant centroid; each passage counts by 1 - relevance.
        max_angle: Largest rotation, in radians.
    """

    positive: float = 0.75
    negative: float = 0.15
    max_angle: float = MAX_ANGLE

    def __post_init__(self) -> None:
        _check_range("positive", self.positive, 0.0, 1e6)
        _check_range("negative", self.negative, 0.0, 1e6)
        _check_range("max_angle", self.max_angle, 0.0, np.pi / 2)


Settings = LogisticSettings | KLSettings | RocchioSettings

# For ``logistic`` with a judge that is hardly ever wrong: every answer counts in full, however they agree.
TRUSTED_JUDGE: Mapping[str, Any] = {"judge_error": 0.0, "doubted_angle": np.pi / 2, "lowering": 1.0}

_SETTINGS: dict[str, type[Settings]] = {
    "logistic": LogisticSettings,
    "kl": KLSettings,
    "rocchio": RocchioSettings,
}


def make_settings(method: str, settings: Mapping[str, Any]) -> Settings:
    """Return the settings object of a method.

    ``scale``, ``precision`` and ``intercept_precision`` of the logistic prior may be given directly.

    Raises:
        ConfigurationError: If the method or a setting is unknown, or a value is out of range.
    """
    if method not in _SETTINGS:
        raise ConfigurationError(f"method: expected one of {', '.join(sorted(_SETTINGS))}, found {method!r}")
    kind = _SETTINGS[method]
    given = dict(settings)
    allowed = {f.name for f in fields(kind)}
    if kind is LogisticSettings:
        prior_names = {f.name for f in fields(LogisticPrior)}
        prior = {name: given.pop(name) for name in prior_names & set(given)}
        if prior:
            given["prior"] = replace(given.get("prior", LogisticPrior()), **prior)
        allowed |= prior_names
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise ConfigurationError(
            f"method {method!r}: unknown setting {', '.join(unknown)}; it has {', '.join(sorted(allowed))}"
        )
    return kind(**given)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigurationError(f"{name}: expected {low:g} to {high:g}, found {value}")
