"""The words of a query and its candidates, as coordinates beside their vectors.

An embedding rounds a text to its topic; the words that relevant passages share and others lack are evidence of its own. Weights
are tf-idf among the candidates alone, so a word that all of them have weighs least. A word is a run of letters and
digits: scripts without blanks share few, by chance, and vowel signs part words, as in Hindi.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

FloatArray = npt.NDArray[np.float64]

# So many first letters of a word stand for it: "refund", "refunds" and "refunded" are one.
STEM = 5
# So many characters of a text are read, and no words at all of more texts than this: both bound the time that reading takes.
READ_CHARS, READ_TEXTS = 5_000, 1_000
# Keeps the Gram matrix of like texts positive definite.
JITTER = 1e-6

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class WordRows:
    """Coordinates whose inner products are cosines of tf-idf vectors.

    Attributes:
        query: Shape (n,), norm at most 1.
        texts: Shape (n, n), unit rows; at right angles to all others for a text that shares no word.
    """

    query: FloatArray
    texts: FloatArray


def read_words(query: str, texts: Sequence[str]) -> WordRows | None:
    """Return the words of a query and of n texts as coordinates; None where no two texts share a word, or for over 1,000 texts.

    Args:
        query: What is searched for.
        texts: n of them; the first five thousand characters of each are read.

    Example:
        >>> rows = read_words("refund", ["a refund was promised", "refunded at once", "it works at last"])
        >>> (rows.texts @ rows.query).round(1).tolist()
        [1.0, 0.7, 0.0]
    """
    if len(texts) > READ_TEXTS:
        return None
    analyzed = [_stems(text) for text in texts]
    if not _any_shared(analyzed):
        return None
    vectorizer = load_vectorizer()(analyzer=list, min_df=2, sublinear_tf=True)
    weights = vectorizer.fit_transform(analyzed)
    gram = (weights @ weights.T).toarray()
    # A text without a shared word is like no other, but as long as they are: its vector must not count for more.
    np.fill_diagonal(gram, 1.0)
    # Of all coordinates with these inner products, n a text: few, where there are thousands of words.
    rows = np.linalg.cholesky(gram + JITTER * np.eye(len(gram)))
    asked = vectorizer.transform([_stems(query)])
    return WordRows(solve_triangular(rows, (weights @ asked.T).toarray().ravel(), lower=True), rows)


def load_vectorizer() -> Any:
    """Return scikit-learn's class; the first call takes half a second, which a solver alone need not spend."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer


def _stems(text: str) -> list[str]:
    return [word[:STEM] for word in _WORD.findall(unicodedata.normalize("NFC", text[:READ_CHARS].lower()))]


def _any_shared(analyzed: Sequence[Sequence[str]]) -> bool:
    seen: set[str] = set()
    for stems in map(set, analyzed):
        if not seen.isdisjoint(stems):
            return True
        seen |= stems
    return False
