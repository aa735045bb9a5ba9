"""Which candidates are too good to be negatives: the adaptive margin (NV-Retriever, arXiv 2407.15831); pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError

FloatArray = npt.NDArray[np.float64]

NO_SCORE = "no_score"
ABSOLUTE_MARGIN = "absolute_margin"
RELATIVE_MARGIN = "relative_margin"
MAX_SCORE = "max_score"
MIN_SCORE = "min_score"
NEAR_POSITIVE = "near_positive"
SKIP_TOP = "skip_top"
REASONS = (NO_SCORE, ABSOLUTE_MARGIN, RELATIVE_MARGIN, MAX_SCORE, MIN_SCORE, NEAR_POSITIVE, SKIP_TOP)
"""Why a candidate is no negative, in the order in which the rules are asked; the first that applies is counted."""


@dataclass(frozen=True)
class MarginRule:
    """What a candidate's score may be beside the positive's. None leaves a rule out; the names are sentence-transformers'.

    Attributes:
        relative_margin: The score must be at least this share of the positive's size below it: 0.05 keeps up to 95 %.
        absolute_margin: The score must be at least so far below the positive's.
        max_score: Highest score, whatever the positive has.
        min_score: Lowest score: what is further away teaches nothing.
        max_positive_similarity: Highest cosine between candidate and positive: what says the same as the positive answers too,
            even if the teacher missed it.
        skip_top: So many of the best survivors are left out.
    """

    relative_margin: float | None = None
    absolute_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    max_positive_similarity: float | None = None
    skip_top: int = 0

    def __post_init__(self) -> None:
        for name in ("relative_margin", "absolute_margin"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < np.inf:
                raise ConfigurationError(f"{name}: expected 0 or more, found {value}")
        if self.skip_top < 0:
            raise ConfigurationError(f"skip_top: expected 0 or more, found {self.skip_top}")

    def reasons(self, scores: FloatArray, positive: float, to_positive: FloatArray | None = None) -> list[str]:
        """Return per candidate why it is no negative, "" if it may be one.

        Args:
            scores: The teacher's, shape (n,), NaN = none.
            positive: The teacher's score of the positive; of several the lowest.
            to_positive: Shape (n,), highest cosine with a positive; needed by ``max_positive_similarity``.
        """
        found = np.full(len(scores), "", dtype=object)
        for reason, removed in self._removed(scores, positive, to_positive):
            found[removed & (found == "")] = reason
        kept = np.flatnonzero(found == "")
        best = kept[np.argsort(-scores[kept], kind="stable")][: self.skip_top]
        found[best] = SKIP_TOP
        return list(found)

    def _removed(
        self, scores: FloatArray, positive: float, to_positive: FloatArray | None
    ) -> list[tuple[str, npt.NDArray[np.bool_]]]:
        removed = [(NO_SCORE, np.isnan(scores) | np.isnan(positive))]
        if self.absolute_margin is not None:
            removed.append((ABSOLUTE_MARGIN, scores + self.absolute_margin > positive))
        if self.relative_margin is not None:
            removed.append((RELATIVE_MARGIN, scores > positive - abs(positive) * self.relative_margin))
        if self.max_score is not None:
            removed.append((MAX_SCORE, scores > self.max_score))
        if self.min_score is not None:
            removed.append((MIN_SCORE, scores < self.min_score))
        if self.max_positive_similarity is not None:
            if to_positive is None:
                raise ConfigurationError(
                    "max_positive_similarity: expected an embedding model, found none to compare with"
                )
            removed.append((NEAR_POSITIVE, to_positive > self.max_positive_similarity))
        return removed


NAIVE = MarginRule()
"""No rule: the nearest candidates as they are."""

RULES = {
    "adaptive": MarginRule(relative_margin=0.05, max_positive_similarity=0.8),
    "verdict": MarginRule(relative_margin=0.3, max_positive_similarity=0.8),
    "topk": NAIVE,
    "topk-shifted": MarginRule(skip_top=10),
    "topk-abs": MarginRule(max_score=0.7),
    "topk-marginpos": MarginRule(absolute_margin=0.05),
    "topk-percpos": MarginRule(relative_margin=0.05),
}
"""NV-Retriever's rules (``"topk..."``) at its best settings, found for cosines; and ours, which also drop near-copies of the
positive: ``"adaptive"`` with the best of its margins, ``"verdict"`` with a wide one, for teachers that judge: what answers has
a probability near 1, but not always the same."""


def find_rule(rule: str | MarginRule) -> MarginRule:
    """Return a rule, or the one of this name.

    Raises:
        ConfigurationError: If there is none.
    """
    if isinstance(rule, MarginRule):
        return rule
    if rule not in RULES:
        raise ConfigurationError(f"rule: expected a MarginRule or one of {', '.join(RULES)}, found {rule!r}")
    return RULES[rule]
