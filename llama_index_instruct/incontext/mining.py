"""Candidates + teacher scores -> hard negatives that are no hidden positives, with soft labels (arXiv 2506.07438)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode
from tqdm.auto import tqdm

from llama_index_instruct.embedders.fields import checked_text
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.incontext.candidates import CandidateFinder
from llama_index_instruct.incontext.choosing import (
    DEFAULT_MINING,
    MiningSettings,
    ScoredQuery,
    choose_negatives,
    default_rule,
)
from llama_index_instruct.incontext.corpus import make_corpus
from llama_index_instruct.incontext.margins import MarginRule, find_rule
from llama_index_instruct.incontext.mined import MinedNegatives, MinedRow, MiningReport
from llama_index_instruct.incontext.teachers import Score, as_scorer, teacher_name
from llama_index_instruct.teacher.answers import AnswerFile, answer_key

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.indices.vector_store import VectorStoreIndex

FloatArray = npt.NDArray[np.float64]
BLOCK = 256
FORMAT = "mined 1"
SEARCH_TEACHERS = ("similarity", "hybrid")
"""Teachers that are the searches themselves."""


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
        settings: MiningSettings = DEFAULT_MINING,
        checkpoint: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        if not pairs:
            raise ConfigurationError("pairs: expected at least one query with its positive, found none")
        by_search = isinstance(teacher, str) and teacher in SEARCH_TEACHERS
        self.rule = find_rule(rule or default_rule(by_search=by_search, embeds=embed_model is not None))
        _check_model(self.rule, teacher if by_search else None, settings, embeds=embed_model is not None)
        self.settings = settings
        self.report = MiningReport()
        self._progress = progress
        corpus = make_corpus(passages, (positive for _, positive in pairs))
        self._positives: dict[str, dict[int, None]] = {}
        for query, positive in pairs:
            self._positives.setdefault(checked_text(query, "query"), {})[corpus.rows[positive]] = None
        self._finder = CandidateFinder(
            corpus.texts,
            embed_model,
            vectors=corpus.vectors,
            lexical=settings.lexical,
            dense=settings.dense,
            progress=progress,
        )
        self._score: Score | None = None if by_search else as_scorer(teacher)
        self._answers = AnswerFile(None if checkpoint is None else Path(checkpoint))
        self._asked = _digest(
            [
                FORMAT,
                "" if embed_model is None else embed_model.model_name,
                settings.lexical,
                settings.dense,
                corpus.texts,
            ]
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
    settings: MiningSettings = DEFAULT_MINING,
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
            ``"topk-marginpos"``, ``"topk-percpos"``; or ours, which also drop what all but repeats the positive: ``"adaptive"``
            for searches, ``"verdict"`` with a wide margin for teachers that judge. None: the one that fits the teacher; without
            an embedding model ``"topk-percpos"``.
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


def _check_model(rule: MarginRule, search_teacher: str | None, settings: MiningSettings, *, embeds: bool) -> None:
    """Refuse at once what would fail after hours of scoring."""
    if search_teacher and not embeds:
        raise ConfigurationError(f"teacher: {search_teacher!r} expects an embedding model that scores, found none")
    if search_teacher == "hybrid" and not settings.lexical:
        raise ConfigurationError("teacher: 'hybrid' expects lexical > 0, found 0")
    if rule.max_positive_similarity is not None and not embeds:
        raise ConfigurationError("max_positive_similarity: expected an embedding model, found none to compare with")


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
