"""Vectors and words side by side: one space in which judgements are weighed, and the way back to a query vector. Pure numpy.

The store knows vectors only. So what the words tell of each candidate is wanted as a change of its score, and a small change of
the query vector is found that nearly gives these changes. Order and scores come from the store as ever.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llama_index_instruct.refinement.changes import ScoreChanges
from llama_index_instruct.refinement.words import WordRows

FloatArray = npt.NDArray[np.float64]

# Length of a text's words beside its vector, which has length 1.
WORD_WEIGHT = 0.7
# The same for the query: its words are what is searched for, but few and often not those of the passages.
QUERY_WORD_WEIGHT = 0.35
# Turned so far, in radians, the query's own words count in full; answers in doubt turn it as far unless it is forbidden.
FULLY_TURNED = 0.45


class JointSpace:
    """A query and its candidates, their words beside their vectors.

    Args:
        query: Shape (d,), unit norm.
        vectors: Shape (n, d), unit rows.
        words: Of the query and the n candidates.

    Attributes:
        query: Shape (d + n,), unit norm.
        candidates: Shape (n, d + n), unit rows.
    """

    def __init__(self, query: FloatArray, vectors: FloatArray, words: WordRows) -> None:
        self._dimension = len(query)
        self._changes = ScoreChanges(vectors)
        beside = np.concatenate([query, QUERY_WORD_WEIGHT * words.query])
        rows = np.hstack([vectors, WORD_WEIGHT * words.texts])
        self._length = math.sqrt(1.0 + WORD_WEIGHT**2)
        self.query = beside / np.linalg.norm(beside)
        self.candidates = rows / self._length

    def query_vector(self, solution: FloatArray, lowered: FloatArray) -> FloatArray:
        """Return the query vector (d,), of any norm, that ranks the candidates much as a solution in this space does.

        Each candidate's score is that of the solution times a constant, less what the words of all have in common, and less the
        query's own words as far as it is not turned; nearly so where there are more dimensions than candidates, roughly
        where there are fewer.

        Args:
            solution: Shape (d + n,), unit norm.
            lowered: Shape (n,), added to the scores in this space.
        """
        vector, words = np.split(solution, [self._dimension])
        along = float(solution @ self.query)
        turned = math.atan2(float(np.linalg.norm(solution - along * self.query)), along)
        # The query's own words are no judgement: by themselves they turn nothing.
        unheard = max(1.0 - turned / FULLY_TURNED, 0.0) * along
        words = words - unheard * self.query[self._dimension :]
        told = self.candidates[:, self._dimension :] @ words
        # What all candidates gain alike changes no order among them, but it would lift them above those never fetched.
        return np.asarray(vector + self._changes.query_change(self._length * (told - told.mean() + lowered)))
