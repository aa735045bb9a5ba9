"""Scored candidates -> the negatives of a query: rule, sampling, and the count of what was left out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.incontext.margins import MarginRule
from llama_index_instruct.incontext.mined import MiningReport, RemovedCandidate
from llama_index_instruct.incontext.teachers import scale_is_known

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MiningSettings:
    """How negatives are mined.

    Attributes:
        lexical: Candidates per query from BM25.
        dense: Candidates per query from the embedding model.
        num_negatives: Negatives per row; pairs with fewer are left out.
        sample_from: They are taken from so many of the best survivors.
        sampling: ``"random"`` among those, or the ``"top"`` ones.
        logits: The teacher gives logits: the rule sees their logistic, the rows keep them raw.
        seed: Of the sampling; every query is drawn for on its own.
    """

    lexical: int = 100
    dense: int = 100
    num_negatives: int = 4
    sample_from: int = 10
    sampling: Literal["random", "top"] = "random"
    logits: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("lexical", 0), ("dense", 0), ("num_negatives", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: expected {least} or more, found {getattr(self, name)}")
        if self.sample_from < self.num_negatives:
            raise ConfigurationError(
                f"sample_from: expected num_negatives={self.num_negatives} or more, found {self.sample_from}"
            )
        if self.sampling not in ("random", "top"):
            raise ConfigurationError(f"sampling: expected 'random' or 'top', found {self.sampling!r}")


DEFAULT_MINING = MiningSettings()


@dataclass(frozen=True)
class ScoredQuery:
    """A query with its scored candidates.

    Attributes:
        query: The query.
        positives: Rows of the passages that answer it.
        positive_scores: Shape (p,), the teacher's raw scores.
        candidates: Rows of n other passages, best first by fused rank.
        scores: Shape (n,), raw.
    """

    query: str
    positives: tuple[int, ...]
    positive_scores: FloatArray
    candidates: tuple[int, ...]
    scores: FloatArray


def default_rule(*, by_search: bool, embeds: bool) -> str:
    """Return the name of the rule that fits the teacher: cosines lie close together, verdicts far apart."""
    if not embeds:
        return "topk-percpos"
    return "adaptive" if by_search else "verdict"


def choose_negatives(
    scored: ScoredQuery,
    rule: MarginRule,
    settings: MiningSettings,
    vectors: npt.NDArray[np.float32] | None,
    report: MiningReport,
    passages: Sequence[str],
) -> list[int]:
    """Return which of the candidates are the query's negatives, highest score first, and count the others in the report."""
    reasons = rule_reasons(scored, rule, settings, vectors)
    for at, reason in enumerate(reasons):
        if reason:
            report.removed[reason] += 1
            texts = (scored.query, passages[scored.positives[0]], passages[scored.candidates[at]])
            report.show(RemovedCandidate(reason, *texts, float(scored.scores[at]), float(scored.positive_scores.min())))
    kept = [at for at, reason in enumerate(reasons) if not reason]
    report.candidates += len(reasons)
    report.kept += len(kept)
    best = sorted(kept, key=lambda at: (-scored.scores[at], at))[: settings.sample_from]
    if settings.sampling == "top" or len(best) <= settings.num_negatives:
        return best[: settings.num_negatives]
    seed = [settings.seed, int.from_bytes(hashlib.sha256(scored.query.encode()).digest()[:8], "big")]
    drawn = np.random.default_rng(seed).choice(len(best), settings.num_negatives, replace=False)
    return [best[at] for at in sorted(drawn.tolist())]


def rule_reasons(
    scored: ScoredQuery, rule: MarginRule, settings: MiningSettings, vectors: npt.NDArray[np.float32] | None
) -> list[str]:
    """Return per candidate why it is no negative, "" if it may be one.

    Raises:
        ConfigurationError: If a relative margin meets scores outside [-1, 1] that are not said to be logits.
    """
    if rule.relative_margin is not None and not settings.logits:
        for found in (scored.scores, scored.positive_scores):
            if not scale_is_known(found):
                raise ConfigurationError(
                    "relative_margin: expected scores in [-1, 1], found others; with logits give MiningSettings(logits=True)"
                )
    # A relative margin has no meaning where zero is arbitrary.
    ruled = sigmoid if settings.logits else np.asarray
    to_positive = None
    if vectors is not None:
        similar = vectors[list(scored.candidates)] @ vectors[list(scored.positives)].T
        to_positive = similar.max(axis=1).astype(np.float64)
    return rule.reasons(ruled(scored.scores), float(ruled(scored.positive_scores).min()), to_positive)
