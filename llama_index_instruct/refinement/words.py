"""The words of a query and its candidates, as coordinates beside their vectors.

An embedding rounds a text to its topic; the words that relevant passages share and others lack are evidence of its own. Weights
are tf-idf among the candidates alone, so a word that all of them have counts for nothing much, in any language that puts blanks
between words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# So many first letters of a word stand for it: "refund", "refunds" and "refunded" are one.
STEM = 5
# What stands further on in a text is not read, which bounds the time that reading takes.
READ_CHARS = 5_000
# Keeps the Gram matrix of like texts positive definite.
JITTER = 1e-6

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class WordRows:
    """Coordinates whose inner products are cosines of tf-idf vectors.

    Attributes:
        query: Shape (n,), norm at most 1.
        texts: Shape (n, n), unit rows; next to nothing for a text that shares no word with another.
    """

    query: FloatArray
    texts: FloatArray


def read_words(query: str, texts: Sequence[str]) -> WordRows | None:
    """Return the words of a query and of n texts as coordinates; None where no two texts share a word.

    Args:
        query: What is searched for.
        texts: n of them; the first five thousand characters of each are read.

    Example:
        >>> rows = read_words("refund", ["a refund was promised", "refunded at once", "it works at last"])
        >>> (rows.texts @ rows.query).round(1).tolist()
        [1.0, 0.7, 0.0]
    """
    # Loaded here, as it takes half a second that a solver alone does not need.
    from sklearn.feature_extraction.text import TfidfVectorizer

    analyzed = [_stems(text) for text in texts]
    if not _any_shared(analyzed):
        return None
    vectorizer = TfidfVectorizer(analyzer=_as_given, min_df=2, sublinear_tf=True)
    weights = vectorizer.fit_transform(analyzed)
    gram = (weights @ weights.T).toarray()
    # Of all coordinates with these inner products, n a text: few, where there are thousands of words.
    rows = np.linalg.cholesky(gram + JITTER * np.eye(len(gram)))
    asked = vectorizer.transform([_stems(query)])
    return WordRows(np.linalg.solve(rows, (weights @ asked.T).toarray().ravel()), rows)


def _stems(text: str) -> list[str]:
    return [word[:STEM] for word in _WORD.findall(text[:READ_CHARS].lower())]


def _as_given(stems: list[str]) -> list[str]:
    return stems


def _any_shared(analyzed: Sequence[Sequence[str]]) -> bool:
    seen: set[str] = set()
    for stems in map(set, analyzed):
        if not seen.isdisjoint(stems):
            return True
        seen |= stems
    return False
