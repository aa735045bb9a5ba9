"""Candidates + teacher scores -> hard negatives that are no hidden positives, with soft labels (arXiv 2506.07438)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.incontext.candidates import CandidateFinder, index_passages, node_passages
from llama_index_instruct.incontext.margins import MarginRule, find_rule
from llama_index_instruct.incontext.mined import MinedNegatives, MinedRow, MiningReport, RemovedCandidate
from llama_index_instruct.incontext.teachers import Score, as_scorer, probabilities, scale_is_known, teacher_name
from llama_index_instruct.teacher.answers import AnswerFile, answer_key

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.indices.vector_store import VectorStoreIndex

FloatArray = npt.NDArray[np.float64]
BLOCK = 256
FORMAT = "mined 1"
SEARCH_TEACHERS = ("similarity", "hybrid")
"""Teachers that are the searches themselves."""


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


class HardNegativeMiner:
    """Mines row by row; see ``mine_hard_negatives`` for the arguments.

    Attributes:
        report: Of the rows given so far.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        passages: Sequence[str] | Sequence[BaseNode] | VectorStoreIndex | None = None,
        *,
        embed_model: BaseEmbedding | None = None,
        teacher: Any = "similarity",
        rule: str | MarginRule | None = None,
        settings: MiningSettings = MiningSettings(),
        checkpoint: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        if not pairs:
            raise ConfigurationError("pairs: expected at least one query with its positive, found none")
        by_search = isinstance(teacher, str) and teacher in SEARCH_TEACHERS
        if by_search and embed_model is None:
            raise ConfigurationError(f"teacher: {teacher!r} expects an embedding model that scores, found none")
        self.rule = find_rule(rule or ("topk-percpos" if embed_model is None else "adaptive"))
        self.settings = settings
        self.report = MiningReport()
        self._progress = progress
        texts, vectors = _texts(passages)
        corpus = list(dict.fromkeys([*texts, *(positive for _, positive in pairs)]))
        row_of = {text: row for row, text in enumerate(corpus)}
        self._positives: dict[str, dict[int, None]] = {}
        for query, positive in pairs:
            self._positives.setdefault(query, {})[row_of[positive]] = None
        self._finder = CandidateFinder(
            corpus,
            embed_model,
            vectors=_rows_for(corpus, texts, vectors),
            lexical=settings.lexical,
            dense=settings.dense,
            progress=progress,
        )
        self._score: Score | None = None if by_search else as_scorer(teacher)
        self._answers = AnswerFile(None if checkpoint is None else Path(checkpoint))
        self._asked = _digest(
            [FORMAT, "" if embed_model is None else embed_model.model_name, settings.lexical, settings.dense, corpus]
        )
        self._teacher = teacher if by_search else teacher_name(teacher)

    @property
    def passages(self) -> Sequence[str]:
        """Return all passages searched; rows of ``ScoredQuery`` count these."""
        return self._finder.passages

    @property
    def vectors(self) -> npt.NDArray[np.float32] | None:
        """Return the passages' unit vectors, (n, d); None without an embedding model."""
        return self._finder.vectors

    def __iter__(self) -> Iterator[MinedRow]:
        for scored in self.scored():
            yield from self._rows(scored)

    def scored(self) -> Iterator[ScoredQuery]:
        """Yield every query with all its candidates scored, before any rule: what costs, and what the checkpoint keeps."""
        queries = list(self._positives)
        with tqdm(total=len(queries), desc="mining", disable=not self._progress) as bar:
            for start in range(0, len(queries), BLOCK):
                block = queries[start : start + BLOCK]
                vectors = self._finder.query_vectors(block)
                for i, rows in enumerate(self._finder.find(block, vectors)):
                    yield self._scored(block[i], rows.tolist(), None if vectors is None else vectors[i])
                    bar.update()

    def _scored(self, query: str, found: list[int], vector: npt.NDArray[np.float32] | None) -> ScoredQuery:
        positives = tuple(self._positives[query])
        candidates = tuple(row for row in found if row not in self._positives[query])
        scores = self._scores_of(query, vector, [*positives, *candidates])
        count = len(positives)
        return ScoredQuery(query, positives, scores[:count], candidates, scores[count:])

    def _scores_of(self, query: str, vector: npt.NDArray[np.float32] | None, rows: list[int]) -> FloatArray:
        if self._score is None:
            assert vector is not None  # the constructor saw to it
            if self._teacher == "hybrid":
                return self._finder.hybrid_scores(query, vector, rows)
            return self._finder.similarities(vector, rows)
        passages = [self._finder.passages[row] for row in rows]
        key = answer_key(self._teacher, self._asked, [query, str(rows)])
        kept = self._answers.get(key)
        if kept is not None:
            return np.array(json.loads(kept), dtype=np.float64)
        scores = self._score(query, passages)
        if not np.isnan(scores).any():  # else they are asked for again by a resumed run
            self._answers.put(key, json.dumps(scores.tolist()))
        return scores

    def _rows(self, scored: ScoredQuery) -> Iterator[MinedRow]:
        chosen = choose_negatives(
            scored, self.rule, self.settings, self._finder.vectors, self.report, self._finder.passages
        )
        self.report.queries += 1
        for positive, score in zip(scored.positives, scored.positive_scores, strict=True):
            if len(chosen) < self.settings.num_negatives or np.isnan(score):
                self.report.dropped += 1
                continue
            self.report.rows += 1
            yield MinedRow(
                scored.query,
                self._finder.passages[positive],
                tuple(self._finder.passages[scored.candidates[at]] for at in chosen),
                (float(score), *(float(scored.scores[at]) for at in chosen)),
            )


def mine_hard_negatives(
    pairs: Sequence[tuple[str, str]],
    passages: Sequence[str] | Sequence[BaseNode] | VectorStoreIndex | None = None,
    *,
    embed_model: BaseEmbedding | None = None,
    teacher: Any = "similarity",
    rule: str | MarginRule | None = None,
    settings: MiningSettings = MiningSettings(),
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> MinedNegatives:
    """Return hard negatives with soft labels, for ``train_incontext`` or sentence-transformers' trainer.

    Candidates come from BM25 and from an embedding model, fused by reciprocal rank; a teacher scores them and the positives;
    what the rule finds too good (a hidden positive, beside the lowest of the query's positives) or useless is removed; some of
    the best survivors are drawn. With ``lexical=0`` and no other teacher the negatives are those of
    ``sentence_transformers.util.mine_hard_negatives``.

    Args:
        pairs: Queries, each with a passage that answers it; a query with several passages stands there several times.
        passages: Where negatives come from: texts, nodes or a LlamaIndex index (whose stored vectors are used); None: the
            positives. Equal texts count once; the positives are always among them.
        embed_model: Dense candidates; None: BM25 alone, which needs a teacher.
        teacher: ``"similarity"``: the embedding model's cosines; ``"hybrid"``: the mean of these and BM25's share of its best
            score; or see ``as_scorer``: a cross-encoder, an LLM, a judge, a reranker or a callable.
        rule: A ``MarginRule``; or the name of one of NV-Retriever's: ``"topk"``, ``"topk-shifted"``, ``"topk-abs"``,
            ``"topk-marginpos"``, ``"topk-percpos"``; or ``"adaptive"``: the last, and no passage that all but repeats the
            positive. None: ``"adaptive"``, without an embedding model ``"topk-percpos"``.
        settings: See ``MiningSettings``.
        checkpoint: File of scores already given: a stopped run goes on from it, and another rule costs no new score.
        progress: Show a progress bar.

    Raises:
        ConfigurationError: If there are no pairs, nothing to search or score with, or a relative margin meets logits.
        MissingExtraError: If BM25 is asked for and the extra ``train`` is not installed.
        TeacherError: If a teacher returns another number of scores than passages.

    Example:
        >>> mined = mine_hard_negatives(pairs, index, embed_model=model, teacher=cross_encoder)  # doctest: +SKIP
        >>> mined.to_dataset().column_names  # doctest: +SKIP
        ['query', 'positive', 'negative_1', 'negative_2', 'negative_3', 'negative_4', 'scores']
    """
    miner = HardNegativeMiner(
        pairs,
        passages,
        embed_model=embed_model,
        teacher=teacher,
        rule=rule,
        settings=settings,
        checkpoint=checkpoint,
        progress=progress,
    )
    return MinedNegatives(list(miner), miner.report)


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
    ruled = probabilities if settings.logits else np.asarray
    to_positive = None
    if vectors is not None:
        similar = vectors[list(scored.candidates)] @ vectors[list(scored.positives)].T
        to_positive = similar.max(axis=1).astype(np.float64)
    return rule.reasons(ruled(scored.scores), float(ruled(scored.positive_scores).min()), to_positive)


def _texts(passages: Any) -> tuple[list[str], npt.NDArray[np.float32] | None]:
    if passages is None:
        return [], None
    if hasattr(passages, "docstore") and hasattr(passages, "vector_store"):
        return index_passages(passages)
    if isinstance(passages, str) or not isinstance(passages, Sequence):
        raise ConfigurationError(f"passages: expected texts, nodes or an index, found {type(passages).__name__}")
    if all(isinstance(passage, BaseNode) for passage in passages):
        return node_passages(passages), None
    for at, passage in enumerate(passages):
        if not isinstance(passage, str):
            raise ConfigurationError(f"passages: expected texts or nodes, found {type(passage).__name__} at place {at}")
    return list(passages), None


def _rows_for(
    corpus: list[str], texts: list[str], vectors: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Return stored vectors in the order of the corpus, NaN where there is none."""
    if vectors is None or not vectors.shape[1]:
        return None
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    rows = np.full((len(corpus), vectors.shape[1]), np.nan, dtype=np.float32)
    for at, text in enumerate(corpus):
        if text in first:
            rows[at] = vectors[first[text]]
    return rows


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
