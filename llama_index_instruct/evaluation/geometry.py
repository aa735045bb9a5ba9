"""Measures of a set of labelled vectors: do texts of one label lie together?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

FloatArray = npt.NDArray[np.float32]
Codes = npt.NDArray[np.intp]
BLOCK = 1024


def clustering_nmi(vectors: FloatArray, codes: Codes) -> float:
    """Return the normalised mutual information of k-means and the labels, k being the number of labels.

    Args:
        vectors: Shape (n, h), clustered as they are.
        codes: Shape (n,).
    """
    found = KMeans(len(np.unique(codes)), n_init=10, random_state=42).fit_predict(vectors)
    return float(normalized_mutual_info_score(codes, found))


def draw_triplets(codes: Codes, count: int, seed: int) -> npt.NDArray[np.intp]:
    """Return rows of (anchor, same label, other label), shape (count, 3); classes are drawn uniformly, then members."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    anchors = [place for place, rows in enumerate(members) if len(rows) > 1]
    triplets = np.empty((count, 3), dtype=np.intp)
    for row in triplets:
        own = anchors[generator.integers(len(anchors))]
        other = (own + 1 + generator.integers(len(members) - 1)) % len(members)
        row[:2] = generator.choice(members[own], 2, replace=False)
        row[2] = generator.choice(members[other])
    return triplets


def triplet_accuracy(queries: FloatArray, documents: FloatArray, triplets: npt.NDArray[np.intp]) -> float:
    """Return how often the anchor is nearer, by cosine, to the text of its label.

    Args:
        queries: Unit vectors of the texts as anchors, shape (n, h).
        documents: Unit vectors of the texts as the others, shape (n, h).
        triplets: See ``draw_triplets``.
    """
    anchor, same, other = queries[triplets[:, 0]], documents[triplets[:, 1]], documents[triplets[:, 2]]
    return float((np.einsum("ij,ij->i", anchor, same) > np.einsum("ij,ij->i", anchor, other)).mean())


def neighbour_precision(queries: FloatArray, documents: FloatArray, codes: Codes, k: int) -> float:
    """Return the mean share of a text's k nearest other texts, by cosine, that have its label.

    Args:
        queries: Unit vectors of the texts as queries, shape (n, h).
        documents: Unit vectors of the texts as documents, shape (n, h).
        codes: Shape (n,).
        k: Neighbours.
    """
    right = 0
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ documents.T
        own = np.arange(start, start + len(scores))
        scores[np.arange(len(scores)), own] = -np.inf
        nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        right += int((codes[nearest] == codes[own][:, None]).sum())
    return right / (k * len(queries))
