"""Passages that a query might be answered by: lexical and dense search, fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError, MissingExtraError
from llama_index_instruct.rows import unit_rows

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

Rows = npt.NDArray[np.intp]
FloatArray = npt.NDArray[np.float32]

HYBRID_LEXICAL = 0.5
RRF_CONSTANT = 60
"""Of reciprocal rank fusion, sum of 1 / (60 + rank): the conventional value."""


class CandidateFinder:
    """Finds candidates among n passages.

    Args:
        passages: n texts.
        embed_model: Dense search, and the similarities; None: lexical search alone.
        vectors: The passages' vectors, (n, d), where they are stored already; rows of NaN are encoded.
        lexical: Best hits of BM25 taken per query; 0 leaves it out.
        dense: Best hits of the embedding model taken per query.
        progress: Show progress bars.

    Raises:
        ConfigurationError: If nothing is left to search with.
        MissingExtraError: If ``lexical`` is more than 0 and the extra ``train`` is not installed.
    """

    def __init__(
        self,
        passages: Sequence[str],
        embed_model: BaseEmbedding | None = None,
        *,
        vectors: FloatArray | None = None,
        lexical: int = 100,
        dense: int = 100,
        progress: bool = True,
    ) -> None:
        if not lexical and (embed_model is None or not dense):
            raise ConfigurationError("candidates: expected lexical > 0, or an embedding model and dense > 0")
        self.passages = list(passages)
        self._model = embed_model
        self._lexical, self._dense = lexical, dense
        self._index = _bm25(self.passages) if lexical else None  # None too where no passage has a word
        self.vectors = None if embed_model is None else _encoded(embed_model, self.passages, vectors, progress)

    def query_vectors(self, queries: Sequence[str]) -> FloatArray | None:
        """Return unit vectors of queries, (q, d); None without an embedding model."""
        if self._model is None:
            return None
        many = getattr(self._model, "get_query_embeddings", None)
        found = many(queries) if many else [self._model.get_query_embedding(query) for query in queries]
        vectors = np.array(found, dtype=np.float32)
        if self.vectors is not None and vectors.shape[1] != self.vectors.shape[1]:
            raise DimensionMismatchError(
                f"embed_model: expected vectors of {self.vectors.shape[1]} numbers as the passages have, "
                f"found {vectors.shape[1]}"
            )
        return unit_rows(vectors)

    def find(self, queries: Sequence[str], vectors: FloatArray | None) -> list[Rows]:
        """Return per query the rows of its candidates, best first by reciprocal rank fusion of both searches.

        Args:
            queries: q texts.
            vectors: Theirs, as from ``query_vectors``.
        """
        lists: list[list[Rows]] = [[] for _ in queries]
        if self._index is not None:
            for found, rows in zip(lists, _best_lexical(self._index, queries, self._lexical), strict=True):
                found.append(rows)
        if self.vectors is not None and vectors is not None and self._dense:
            for found, similarities in zip(lists, vectors @ self.vectors.T, strict=True):
                found.append(best_rows(similarities, self._dense))
        return [fused(found) for found in lists]

    def similarities(self, vector: FloatArray, rows: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the cosines of a query vector and the passages of these rows.

        Raises:
            ConfigurationError: If there is no embedding model.
        """
        if self.vectors is None:
            raise ConfigurationError("candidates: expected an embedding model to compare with, found none")
        return np.asarray(self.vectors[list(rows)] @ vector, dtype=np.float64)

    def hybrid_scores(self, query: str, vector: FloatArray, rows: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the mean of cosine and BM25 score, the latter as a share of the best passage's, for these rows.

        Raises:
            ConfigurationError: If there is no embedding model or no lexical search.
        """
        if not self._lexical:
            raise ConfigurationError("teacher: 'hybrid' expects lexical > 0, found 0")
        lexical = np.zeros(len(self.passages))
        if self._index is not None:
            (words,) = _words([query])
            lexical = _lexical_scores(self._index, words)
        best = float(lexical.max()) or 1.0
        return HYBRID_LEXICAL * lexical[list(rows)] / best + (1.0 - HYBRID_LEXICAL) * self.similarities(vector, rows)


def best_rows(scores: npt.NDArray[Any], count: int) -> Rows:
    """Return the rows of the highest scores, best first; equal ones in their order.

    Example:
        >>> best_rows(np.array([0.1, 0.9, 0.9, 0.5]), 3).tolist()
        [1, 2, 3]
    """
    count = min(count, len(scores))
    if count < len(scores):
        # Keep every row that ties with the last one, so that ties are broken by order and not by the partition.
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        rows = np.flatnonzero(scores >= least)
    else:
        rows = np.arange(len(scores))
    return rows[np.argsort(-scores[rows], kind="stable")][:count]


def fused(rankings: Sequence[Rows]) -> Rows:
    """Return the union of rankings by reciprocal rank fusion; equal sums by row.

    Example:
        >>> fused([np.array([4, 7]), np.array([7, 2])]).tolist()
        [7, 4, 2]
    """
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking.tolist(), start=1):
            sums[row] = sums.get(row, 0.0) + 1.0 / (RRF_CONSTANT + rank)
    return np.array(sorted(sums, key=lambda row: (-sums[row], row)), dtype=np.intp)


def _bm25(passages: Sequence[str]) -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("Lexical candidates (BM25)", "train") from error
    words = bm25s.tokenize(list(passages), show_progress=False)
    if not any(words.ids):
        return None
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    return index


def _words(queries: Sequence[str]) -> list[list[str]]:
    import bm25s

    words: list[list[str]] = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
    return words


def _lexical_scores(index: Any, words: list[str]) -> npt.NDArray[np.float64]:
    """Return the BM25 scores of all passages; words that none of them has count nothing."""
    scores = index.get_scores(words) if words else np.zeros(index.scores["num_docs"])
    return np.asarray(scores, dtype=np.float64)


def _best_lexical(index: Any, queries: Sequence[str], count: int) -> list[Rows]:
    found = []
    for words in _words(queries):
        scores = _lexical_scores(index, words)
        rows = best_rows(scores, count)
        found.append(rows[scores[rows] > 0.0])  # a passage without any of the query's words is no candidate
    return found


def _encoded(model: BaseEmbedding, passages: list[str], stored: FloatArray | None, progress: bool) -> FloatArray:
    known = np.zeros(len(passages), dtype=bool) if stored is None else ~np.isnan(stored).any(axis=1)
    if stored is not None and known.all():
        return unit_rows(stored)
    # By length, so that a batch holds little padding.
    missing = sorted(np.flatnonzero(~known).tolist(), key=lambda i: len(passages[i]))
    encoded = model.get_text_embedding_batch([passages[i] for i in missing], show_progress=progress)
    vectors = np.array(encoded, dtype=np.float32)
    rows = (
        np.empty((len(passages), vectors.shape[1]), np.float32) if stored is None or not known.any() else stored.copy()
    )
    rows[missing] = vectors
    return unit_rows(rows)
