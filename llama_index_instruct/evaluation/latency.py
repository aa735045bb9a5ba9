"""How long a refined retrieve takes beside a plain one, with a judge of a known delay."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import numpy as np
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_instruct.evaluation.numbers import QUERY, DelayedJudge, even, numbered_documents
from llama_index_instruct.refinement.retriever import RefinementRetriever


def bench_latency(
    *,
    delay: float = 0.2,
    documents: int = 5_000,
    dimension: int = 384,
    judged: int = 20,
    rounds: int = 2,
    repeats: int = 5,
) -> dict[str, Any]:
    """Return median wall milliseconds of plain and refined retrieves on an in-process Qdrant, both ways.

    Args:
        delay: Seconds per judgement.
        documents: Random vectors in the collection.
        dimension: Their size.
        judged: Judgements per query.
        rounds: Rounds they are spread over.
        repeats: Queries per figure.
    """
    return asyncio.run(_bench(delay, documents, dimension, judged, rounds, repeats))


async def _bench(
    delay: float, documents: int, dimension: int, judged: int, rounds: int, repeats: int
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    async with numbered_documents(documents, dimension, rng) as (plain, aplain):
        queries = [QueryBundle(QUERY, embedding=rng.normal(size=dimension).tolist()) for _ in range(repeats)]
        settings: dict[str, Any] = {"judged": judged, "rounds": rounds}
        slow, instant = DelayedJudge(delay=delay), DelayedJudge(delay=0.0)
        refined = RefinementRetriever(plain, llm=slow, **settings)
        arefined = RefinementRetriever(aplain, llm=slow, **settings)
        free = RefinementRetriever(plain, judge=even, **settings)
        times: dict[str, list[float]] = {"plain": [], "refined": [], "refined async": [], "refined, free judge": []}
        same = True
        await asyncio.to_thread(RefinementRetriever(plain, llm=instant, **settings).retrieve, queries[0])
        for query in queries:
            _, ms = _timed(plain.retrieve, query)
            times["plain"].append(ms)
            hits, ms = _timed(refined.retrieve, query)
            times["refined"].append(ms)
            start = time.perf_counter()
            ahits = await arefined.aretrieve(query)
            times["refined async"].append(1000.0 * (time.perf_counter() - start))
            times["refined, free judge"].append(_timed(free.retrieve, query)[1])
            same = same and [h.node.node_id for h in hits] == [h.node.node_id for h in ahits]
    return {
        "bench": "latency",
        "settings": {
            "delay": delay,
            "documents": documents,
            "dimension": dimension,
            "judged": judged,
            "rounds": rounds,
        },
        "ms": {name: round(statistics.median(values), 1) for name, values in times.items()},
        "sync_and_async_agree": same,
    }


def _timed(retrieve: Any, query: QueryBundle) -> tuple[list[NodeWithScore], float]:
    start = time.perf_counter()
    hits = retrieve(query)
    return hits, 1000.0 * (time.perf_counter() - start)
