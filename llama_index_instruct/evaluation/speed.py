"""CPU time of one solve, as a ratio to the released loop in the same run.

``logistic`` is the solve of the retriever as it comes, with words; what it does before any judgement, reading the words of all
candidates above all, is ``preparation``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from llama_index_instruct.evaluation.peers import CANDIDATES, Task, kl_reference
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.refinement.rounds import RefinementRounds
from llama_index_instruct.refinement.solvers import refine_query
from llama_index_instruct.refinement.words import read_words

# Texts as long as a paragraph, of a vocabulary of which some words are shared by a few and some by many.
VOCABULARY, WORDS = [f"{i:04d}" for i in range(2000)], 100


def bench_solver_speed(
    *, judged: int = 20, dimensions: tuple[int, ...] = (384, 1024), rounds: int = 7, solves: int = 20
) -> dict[str, Any]:
    """Return, per dimension and method, median CPU milliseconds and the ratio to ``kl-reference``.

    Variants take turns inside every round and ratios are formed per round, so load from elsewhere cancels.

    Args:
        judged: Passages per query.
        dimensions: Vector sizes.
        rounds: Rounds; each times every variant.
        solves: Solves per round and variant (a tenth of it for the slow reference).
    """
    return {str(d): _at_dimension(d, judged, rounds, solves) for d in dimensions}


def _at_dimension(d: int, judged: int, rounds: int, solves: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    query = _unit(rng.normal(size=d))
    passages = _around(query, 1.2, judged, rng)
    # Further from the query, so that rejected passages are in the head and have to be lowered.
    others = _around(query, 1.5, max(CANDIDATES - judged, 1), rng)
    texts = [" ".join(rng.choice(VOCABULARY, size=WORDS)) for _ in range(judged + len(others))]
    relevance = (rng.random(judged) < 0.4).astype(float)
    relevance[:2] = 0.0, 1.0
    task = Task(query.astype(np.float32), passages.astype(np.float32), lambda rows: relevance[rows], judged, 1)

    def reference() -> float:
        return statistics.fmean(kl_reference(task).solve_ms for _ in range(max(solves // 10, 2)))

    def ours(solve: Callable[[], Any]) -> Callable[[], float]:
        def timed() -> float:
            start = time.process_time()
            for _ in range(solves):
                solve()
            return 1000.0 * (time.process_time() - start) / solves

        return timed

    def begun() -> RefinementRounds:
        candidates = np.concatenate([passages, others])
        return RefinementRounds(query, candidates, judged=judged, rounds=1, words=read_words(texts[0], texts))

    begun_rounds = begun()
    begun_rounds.record(np.arange(judged), relevance)
    variants: dict[str, Callable[[], float]] = {
        "kl-reference": reference,
        "kl": ours(lambda: refine_query(query, passages, relevance, method="kl")),
        "logistic": ours(begun_rounds.refine),
        "logistic-vectors": ours(lambda: refine_query(query, passages, relevance, others=others)),
        "preparation": ours(begun),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    with one_thread():
        for variant in variants.values():
            variant()
        for _ in range(rounds):
            for name, variant in variants.items():
                times[name].append(variant())
    ratios = {
        name: statistics.median(slow / fast for slow, fast in zip(times["kl-reference"], times[name], strict=True))
        for name in variants
    }
    return {
        name: {
            "cpu_ms": round(statistics.median(times[name]), 3),
            "times_faster": round(ratios[name], 1),
        }
        for name in variants
    }


def _around(query: Any, distance: float, count: int, rng: np.random.Generator) -> Any:
    return np.array([_unit(query + distance * _unit(rng.normal(size=len(query)))) for _ in range(count)])


def _unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)
