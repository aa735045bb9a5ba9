"""The course of one refinement: pick candidates, hear what the teacher says, pick again, solve. Pure numpy.

Retriever and benchmark run the same object, so what is measured is what is shipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import DimensionMismatchError
from llama_index_instruct.refinement.selection import SelectionSettings, select_candidates, split_budget
from llama_index_instruct.refinement.settings import Method
from llama_index_instruct.refinement.solvers import RefinedQuery, refine_query

FloatArray = npt.NDArray[np.float64]


class RefinementRounds:
    """Alternates between ``next_rows`` and ``record``; ``refine`` solves for the new query at any time.

    Args:
        query: Shape (d,), finite, norm above 0.
        candidates: Shape (n, d), finite non-zero rows, best first.
        judged: Judgements in all.
        rounds: Rounds they are spread over.
        selection: How each round picks.

    Example:
        >>> rounds = RefinementRounds(np.array([1.0, 0.0]), np.array([[0.8, 0.6], [0.8, -0.6]]), judged=2, rounds=1)
        >>> rows = rounds.next_rows()
        >>> rounds.record(rows, np.array([1.0, 0.0]))
        >>> bool(rounds.refine("logistic").vector[1] > 0)
        True
    """

    def __init__(
        self,
        query: npt.ArrayLike,
        candidates: npt.ArrayLike,
        *,
        judged: int,
        rounds: int,
        selection: SelectionSettings | None = None,
    ) -> None:
        vector = np.asarray(query, dtype=np.float64)
        rows = np.asarray(candidates, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1:] != vector.shape:
            raise DimensionMismatchError(f"candidates: expected shape (n, {vector.size}), found {rows.shape}")
        self._query = vector / np.linalg.norm(vector)
        self._candidates = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._selection = selection or SelectionSettings()
        self._budget = split_budget(judged, rounds)
        self._rows = np.zeros(0, dtype=np.intp)
        self._relevance = np.zeros(0)

    def next_rows(self) -> npt.NDArray[np.intp]:
        """Return the candidates to judge in the next round, shape (m,); empty when there is none left."""
        if not self._budget or len(self._rows) == len(self._candidates):
            return np.zeros(0, dtype=np.intp)
        count = self._budget.pop(0)
        return select_candidates(self._query, self._candidates, self._rows, self._relevance, count, self._selection)

    def record(self, rows: npt.NDArray[np.intp], relevance: FloatArray) -> None:
        """Take down what the teacher said, shape (m,); NaN = no judgement."""
        self._rows = np.concatenate([self._rows, rows])
        self._relevance = np.concatenate([self._relevance, relevance])

    @property
    def judged_rows(self) -> npt.NDArray[np.intp]:
        """Return the candidates shown to the teacher so far, in that order."""
        return self._rows

    @property
    def relevance(self) -> FloatArray:
        """Return what the teacher said of them; NaN = no judgement."""
        return self._relevance

    def refine(self, method: Method = "logistic", **settings: Any) -> RefinedQuery:
        """Return the query refined by everything recorded; see ``refine_query``."""
        return refine_query(
            self._query,
            self._candidates[self._rows],
            self._relevance,
            method=method,
            others=np.delete(self._candidates, self._rows[~np.isnan(self._relevance)], axis=0),
            **settings,
        )
