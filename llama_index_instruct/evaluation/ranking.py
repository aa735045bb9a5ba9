"""A model on retrieval sets: every query's ranking, and its measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llama_index_instruct.evaluation.datasets import RetrievalSet
from llama_index_instruct.evaluation.metrics import ranking_measures

Rows = npt.NDArray[np.intp]
FloatArray = npt.NDArray[np.float32]


def rankings(data: RetrievalSet, queries: FloatArray, documents: FloatArray) -> list[Rows]:
    """Return per query all documents of its pool, best first, equal ones in their order.

    Args:
        data: The set.
        queries: Their vectors, (q, d), unit rows.
        documents: Theirs, (n, d), unit rows.
    """
    found = []
    for number, query in enumerate(queries):
        pool = np.arange(len(documents)) if data.pools is None else data.pools[number]
        found.append(pool[np.argsort(-(documents[pool] @ query), kind="stable")])
    return found


def mean_measures(data: RetrievalSet, ranked: Sequence[Rows]) -> dict[str, float]:
    """Return the means of ``map`` and ``ndcg@10`` over the queries, in percent."""
    measures = ranking_measures(ranked, data.relevant)
    return {name: 100.0 * float(values.mean()) for name, values in measures.items()}
