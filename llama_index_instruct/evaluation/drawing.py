"""Smaller versions of evaluation sets, drawn by a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from llama_index_instruct.evaluation.datasets import RetrievalSet
from llama_index_instruct.evaluation.facets import FacetedCorpus


def draw_queries(data: RetrievalSet, count: int, seed: int) -> RetrievalSet:
    """Return the set with so many of its queries, in their order, or all."""
    drawn = _draw(len(data.queries), count, seed).tolist()
    return replace(
        data,
        queries=[data.queries[q] for q in drawn],
        relevant=[data.relevant[q] for q in drawn],
        pools=None if data.pools is None else [data.pools[q] for q in drawn],
    )


def draw_documents(data: RetrievalSet, count: int, seed: int) -> RetrievalSet:
    """Return the set with so many of its documents, or all; what is relevant stays, however many these are."""
    kept = np.union1d(_draw(len(data.documents), count, seed), np.concatenate(data.relevant))
    place = np.full(len(data.documents), -1, dtype=np.intp)
    place[kept] = np.arange(len(kept))

    def moved(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return place[rows][place[rows] >= 0]

    return replace(
        data,
        document_ids=[data.document_ids[row] for row in kept],
        documents=[data.documents[row] for row in kept],
        relevant=[moved(rows) for rows in data.relevant],
        pools=None if data.pools is None else [moved(rows) for rows in data.pools],
    )


def draw_texts(corpus: FacetedCorpus, count: int, seed: int) -> FacetedCorpus:
    """Return the corpus with so many of its texts, in their order, or all."""
    drawn = _draw(len(corpus.texts), count, seed)
    facets = [replace(facet, labels=facet.labels[drawn]) for facet in corpus.facets]
    return replace(corpus, texts=[corpus.texts[row] for row in drawn], facets=facets)


def draw_facets(corpus: FacetedCorpus, count: int, seed: int) -> FacetedCorpus:
    """Return the corpus with so many of its facets, in their order, or all."""
    return replace(corpus, facets=[corpus.facets[i] for i in _draw(len(corpus.facets), count, seed)])


def _draw(size: int, count: int, seed: int) -> npt.NDArray[np.intp]:
    return np.sort(np.random.default_rng(seed).permutation(size)[:count])
