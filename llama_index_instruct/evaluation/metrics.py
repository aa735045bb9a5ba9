"""Measures of a ranking: a thin layer over ir-measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import MissingExtraError

FloatArray = npt.NDArray[np.float64]


def ranking_measures(
    rankings: Sequence[npt.NDArray[np.intp]], relevant: Sequence[npt.NDArray[np.intp]]
) -> dict[str, FloatArray]:
    """Return ``map`` and ``ndcg@10`` of every query.

    Args:
        rankings: Per query, rows of all ranked documents, best first.
        relevant: Per query, rows of the relevant documents.

    Returns:
        Each measure with shape (number of queries,), in [0, 1].

    Raises:
        MissingExtraError: If the extra ``bench`` is not installed.

    Example:
        >>> measures = ranking_measures([np.array([4, 7, 1])], [np.array([4, 1])])
        >>> measures["map"].round(4).tolist()
        [0.8333]
    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError("The benchmark", "bench") from error
    wanted = {ir_measures.AP: "map", ir_measures.nDCG @ 10: "ndcg@10"}
    qrels = [ir_measures.Qrel(str(q), str(row), 1) for q, rows in enumerate(relevant) for row in rows.tolist()]
    run = [
        # A strictly falling score keeps the given order, whatever the tool does with ties.
        ir_measures.ScoredDoc(str(q), str(row), -float(place))
        for q, rows in enumerate(rankings)
        for place, row in enumerate(_up_to_last_relevant(rows, relevant[q]).tolist())
    ]
    values = {name: np.zeros(len(rankings)) for name in wanted.values()}
    for metric in ir_measures.iter_calc(list(wanted), qrels, run):
        values[wanted[metric.measure]][int(metric.query_id)] = metric.value
    return values


def _up_to_last_relevant(ranking: npt.NDArray[np.intp], relevant: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the head of a ranking that decides its measures: nothing below the last relevant document counts."""
    places = np.flatnonzero(np.isin(ranking, relevant))
    return ranking[: max(int(places[-1]) + 1 if places.size else 0, 10)]
