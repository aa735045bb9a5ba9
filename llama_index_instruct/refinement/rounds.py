"""The course of one refinement: pick candidates, hear what the teacher says, pick again, solve. Numbers only.

Retriever and benchmark run the same object, so what is measured is what is shipped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError
from llama_index_instruct.refinement.agreement import softened
from llama_index_instruct.refinement.joint import JointSpace
from llama_index_instruct.refinement.lowering import lowered_scores
from llama_index_instruct.refinement.selection import SelectionSettings, select_candidates, split_budget
from llama_index_instruct.refinement.settings import LogisticSettings, Method, make_settings
from llama_index_instruct.refinement.solvers import NO_CHANGE, RefinedQuery, refine_query, rotate_towards
from llama_index_instruct.refinement.words import WordRows

FloatArray = npt.NDArray[np.float64]


class RefinementRounds:
    """Alternates between ``next_rows`` and ``record``; ``refine`` solves for the new query at any time.

    Args:
        query: Shape (d,), finite, norm above 0.
        candidates: Shape (n, d), finite non-zero rows, best first.
        judged: Judgements in all.
        rounds: Rounds they are spread over.
        selection: How each round picks.
        words: Of the query and the candidates, see ``read_words``; weighed along with the vectors by ``logistic``; None = the
            vectors alone.

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
        words: WordRows | None = None,
    ) -> None:
        vector = np.asarray(query, dtype=np.float64)
        rows = np.asarray(candidates, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1:] != vector.shape:
            raise DimensionMismatchError(f"candidates: expected shape (n, {vector.size}), found {rows.shape}")
        if words is not None and len(words.texts) != len(rows):
            raise DimensionMismatchError(f"words: expected those of {len(rows)} candidates, found {len(words.texts)}")
        unit, units = vector / np.linalg.norm(vector), rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._unit = unit
        self._joint = None if words is None else JointSpace(unit, units, words)
        # What judgements are weighed in.
        self._query = unit if self._joint is None else self._joint.query
        self._candidates = units if self._joint is None else self._joint.candidates
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
        """Return the query refined by everything recorded; see ``refine_query``.

        With words, ``loss_before`` and ``loss_after`` are those of the space that joins them to the vectors.
        """
        passages = self._candidates[self._rows]
        if self._joint is None:
            unjudged = np.delete(self._candidates, self._judged, axis=0)
            return refine_query(self._query, passages, self._relevance, method=method, others=unjudged, **settings)
        chosen = make_settings(method, settings)
        if not isinstance(chosen, LogisticSettings):
            raise ConfigurationError(f"words: go with method 'logistic', found {method!r}")
        refined = refine_query(self._query, passages, self._relevance, **settings)
        if np.isnan(refined.foretold).all():
            return replace(refined, vector=self._unit.astype(np.float32))
        # Not turned, it may still have to let rejected passages sink.
        solution = refined.vector.astype(np.float64) if refined.moved else self._query
        lowered = np.zeros(len(self._candidates))
        lowered[self._judged] = self._lowered(solution, refined.foretold, chosen)
        wanted = self._joint.query_vector(solution, lowered)
        vector, angle = rotate_towards(self._unit, wanted, chosen.max_angle)
        reason = "" if angle > 0.0 else NO_CHANGE
        return replace(refined, vector=vector.astype(np.float32), angle=angle, moved=angle > 0.0, reason=reason)

    @property
    def _judged(self) -> npt.NDArray[np.intp]:
        return self._rows[~np.isnan(self._relevance)]

    def _lowered(self, solution: FloatArray, foretold: FloatArray, settings: LogisticSettings) -> FloatArray:
        known = ~np.isnan(self._relevance)
        answers, scores = self._relevance[known], self._candidates @ solution
        wrong = 1.0 - softened(answers, foretold[known], settings.judge_error)
        return lowered_scores(scores[self._judged], answers, wrong, np.delete(scores, self._judged), settings.lowering)
