"""What a user would use instead, behind the same call: judge 20 hits of a ranking, return a better ranking.

Every peer gets the same query, vectors and judge; only what it does with the judgements differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.evaluation.timing import cpu_seconds
from llama_index_instruct.refinement.objectives import LOG_FLOOR
from llama_index_instruct.refinement.rounds import RefinementRounds
from llama_index_instruct.refinement.selection import TRUSTED_SELECTION, SelectionSettings
from llama_index_instruct.refinement.settings import TRUSTED_JUDGE, Method
from llama_index_instruct.refinement.words import read_words

Rows = npt.NDArray[np.intp]
FloatArray = npt.NDArray[np.float64]
FeedbackWeights = tuple[float, float, float]

# How many hits the retriever fetches to choose from, its default.
CANDIDATES = 200
# The weights in the example of Qdrant's documentation of the query; the vendor says they must be trained.
QDRANT_DOCUMENTED: FeedbackWeights = (0.12, 0.43, 0.03)
QDRANT_GRID: tuple[FeedbackWeights, ...] = tuple((1.0, b, c) for b in (0.0, 1.0) for c in (0.003, 0.01, 0.03, 0.1, 0.3))


@dataclass(frozen=True)
class Task:
    """One query to be ranked.

    Attributes:
        query: Shape (d,), float32, unit norm.
        documents: Shape (n, d), float32, unit rows: those it is ranked over.
        teacher: Rows (m,) -> relevance (m,) in [0, 1].
        judged: Judgements in all.
        rounds: Rounds they are spread over, where a method has rounds.
        text: Of the query.
        texts: Of the n documents; None = no method may read words.
    """

    query: npt.NDArray[np.float32]
    documents: npt.NDArray[np.float32]
    teacher: Callable[[Rows], FloatArray]
    judged: int
    rounds: int
    text: str = ""
    texts: Sequence[str] | None = None


@dataclass(frozen=True)
class Ranked:
    """A ranking of all documents, best first, with what it took.

    Attributes:
        rows: Shape (n,).
        judgements: How many were asked for.
        solve_ms: CPU milliseconds between the last judgement and the new query vector; NaN where there is none.
        vector: Shape (d,), the query vector that gives the ranking; None where no single one does.
        prepare_ms: CPU milliseconds before that: reading words and choosing what is judged; NaN where it is the top.
    """

    rows: Rows
    judgements: int
    solve_ms: float
    vector: FloatArray | None
    prepare_ms: float = float("nan")


def rank_by(vector: npt.ArrayLike, documents: npt.NDArray[np.float32]) -> Rows:
    """Return all rows by falling inner product with a vector (d,); equal ones in their order, shape (n,)."""
    return np.argsort(-(documents @ np.asarray(vector, dtype=np.float32)), kind="stable")


def plain(task: Task) -> Ranked:
    """Similarity search as it is."""
    return Ranked(rank_by(task.query, task.documents), 0, float("nan"), task.query.astype(np.float64))


def rerank(task: Task) -> Ranked:
    """The judged hits sorted by relevance, the rest as it was: what an LLM reranker does at its best."""
    order = rank_by(task.query, task.documents)
    top = order[: task.judged]
    # What the judge did not answer stays between yes and no.
    relevance = np.nan_to_num(task.teacher(top), nan=0.5)
    best_first = top[np.argsort(-relevance, kind="stable")]
    return Ranked(np.concatenate([best_first, order[task.judged :]]), len(top), float("nan"), None)


def kl_reference(task: Task) -> Ranked:
    """The released loop (arXiv 2605.12487): torch, Adam, learning rate 1e-4, 100 steps."""
    import torch

    top, relevance, asked = _judge_top(task)
    if len(top) < 2:
        return replace(plain(task), judgements=asked)
    query = torch.tensor(task.query, requires_grad=True)
    passages = torch.tensor(task.documents[top])

    def descend() -> FloatArray:
        teacher = torch.softmax(torch.tensor(relevance, dtype=torch.float32), dim=0)
        optimizer = torch.optim.Adam([query], lr=1e-4)
        for _ in range(100):
            optimizer.zero_grad()
            student = torch.softmax(torch.nn.functional.cosine_similarity(passages, query[None, :]), dim=0)
            loss = torch.sum(teacher * torch.log((teacher + LOG_FLOOR) / (student + LOG_FLOOR)))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return query.detach().numpy().astype(np.float64)

    spent, vector = cpu_seconds(descend)
    return _ranked(task, vector / np.linalg.norm(vector), asked, spent)


def refinement(
    method: Method, *, selection: SelectionSettings | None = None, words: bool = False, **settings: Any
) -> Callable[[Task], Ranked]:
    """Return this package's refinement as a peer; candidates and rounds as in the retriever."""

    def rank(task: Task) -> Ranked:
        rounds, preparing = judged_rounds(task, selection, words=words)
        solving, refined = cpu_seconds(lambda: rounds.refine(method, **settings))
        ranked = _ranked(task, refined.vector, len(rounds.judged_rows), solving)
        return replace(ranked, prepare_ms=1000.0 * preparing)

    return rank


def judged_rounds(
    task: Task, selection: SelectionSettings | None = None, *, words: bool = False
) -> tuple[RefinementRounds, float]:
    """Return the rounds of a task, judged to the end as in the retriever, and the CPU seconds that this took.

    They are those of reading words, where any are to be read, and of choosing; not the teacher's.
    """
    pool = rank_by(task.query, task.documents)[: max(CANDIDATES, task.judged)]

    def begun() -> RefinementRounds:
        texts = [task.texts[row] for row in pool] if words and task.texts is not None else None
        return RefinementRounds(
            task.query,
            task.documents[pool],
            judged=task.judged,
            rounds=task.rounds,
            selection=selection,
            words=None if texts is None else read_words(task.text, texts),
        )

    spent, rounds = cpu_seconds(begun)
    while True:
        choosing, rows = cpu_seconds(rounds.next_rows)
        spent += choosing
        if len(rows) == 0:
            return rounds, spent
        rounds.record(rows, task.teacher(pool[rows]))


def qdrant_feedback(weights: FeedbackWeights) -> Callable[[Task], Ranked]:
    """Return Qdrant's relevance-feedback query (naive strategy) at the weights (a, b, c) as a peer.

    Under cosine its score ``a * sim(q, d) + sum over pairs (conf ** b * c * (sim(p, d) - sim(n, d)))`` is linear in the
    document, so one nearest-neighbour query with one vector gives the same ranking; the tests hold that against
    ``models.RelevanceFeedbackQuery`` itself.
    """

    def rank(task: Task) -> Ranked:
        top, relevance, asked = _judge_top(task)
        spent, vector = cpu_seconds(lambda: feedback_vector(task.query, task.documents[top], relevance, weights))
        return _ranked(task, vector, asked, spent)

    return rank


def feedback_vector(
    query: npt.ArrayLike, passages: npt.ArrayLike, relevance: FloatArray, weights: FeedbackWeights
) -> FloatArray:
    """Return the vector (d,) that Qdrant's naive feedback amounts to.

    Args:
        query: Shape (d,), unit norm.
        passages: Shape (k, d), unit rows.
        relevance: Shape (k,).
        weights: a, b and c.
    """
    a, b, c = weights
    difference = relevance[:, None] - relevance[None, :]
    pair = np.where(difference > 0.0, np.abs(difference) ** b, 0.0)
    signed = pair.sum(axis=1) - pair.sum(axis=0)
    return np.asarray(a * np.asarray(query, np.float64) + c * (signed @ np.asarray(passages, np.float64)))


def _judge_top(task: Task) -> tuple[Rows, FloatArray, int]:
    """Return the top rows that the teacher judged, their relevance, and how many it was asked about."""
    top = rank_by(task.query, task.documents)[: task.judged]
    relevance = task.teacher(top)
    known = ~np.isnan(relevance)
    return top[known], relevance[known], len(top)


def _ranked(task: Task, vector: npt.ArrayLike, judgements: int, seconds: float) -> Ranked:
    unit = np.asarray(vector, dtype=np.float64)
    return Ranked(rank_by(unit, task.documents), judgements, 1000.0 * seconds, unit)


PEERS: dict[str, Callable[[Task], Ranked]] = {
    "plain": plain,
    "rerank": rerank,
    "kl-reference": kl_reference,
    "kl": refinement("kl"),
    "rocchio": refinement("rocchio"),
    "qdrant-feedback": qdrant_feedback(QDRANT_DOCUMENTED),
    "logistic": refinement("logistic", words=True),
    "logistic-vectors": refinement("logistic"),
    "logistic-trusted": refinement("logistic", selection=TRUSTED_SELECTION, words=True, **TRUSTED_JUDGE),
}
