"""F28: one shared retriever, sixteen threads and sixty-four tasks; every answer is the one it gives alone."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import ScriptedLLM, WordEmbedding, quoted_passage
from gstransform.shop import fitted, opened, same
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.schema import QueryBundle
from messages import MOODS, THINGS
from qdrant_client import AsyncQdrantClient

from llama_index_instruct import GSTransformRetriever, RefinementRetriever, RelevanceJudge
from llama_index_instruct.gstransform.fingerprint import fingerprint

THREADS, TASKS = 16, 64
WORKERS = 6
QUERIES = [f"order refund {thing} {mood.split()[0]}" for thing in THINGS for mood in MOODS]


@pytest.fixture
async def shop(memory_client):
    """One index on the same points for both kinds of callers."""
    aclient = AsyncQdrantClient(":memory:")
    index = opened(memory_client, client=memory_client, aclient=aclient)
    aclient._client.collections = memory_client._client.collections
    yield index
    await aclient.close()


class LastWord(ScriptedLLM):
    """Says yes to passages that hold the last word of the query, so that no two queries get the same judgements."""

    def _answer(self, prompt):
        word = re.search(r"Search request: .* (\w+)\n", prompt).group(1)
        said = "yes" if word in quoted_passage(prompt) else "no"
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=said))


def refining(index):
    llm = LastWord(latency=0.002)
    inner = index.as_retriever(similarity_top_k=10)
    return RefinementRetriever(inner, judge=RelevanceJudge(llm, workers=WORKERS), judged=8, judge_deadline=None), llm


def in_threads(ask, rounds):
    """What many threads get that begin together, each with another query: pairs of number and answer."""
    together = threading.Barrier(THREADS)

    def work(thread):
        together.wait()
        return [(i, ask(i)) for i in ((thread + turn) % len(QUERIES) for turn in range(rounds))]

    with ThreadPoolExecutor(THREADS) as pool:
        return [pair for pairs in pool.map(work, range(THREADS)) for pair in pairs]


async def in_tasks(ask):
    numbers = [task % len(QUERIES) for task in range(TASKS)]
    return list(zip(numbers, await asyncio.gather(*map(ask, numbers)), strict=True))


async def answers(kind, ask, aask, rounds=3):
    threads = asyncio.to_thread(in_threads, ask, rounds) if kind != "tasks" else None
    tasks = in_tasks(aask) if kind != "threads" else None
    return [pair for pairs in await asyncio.gather(*filter(None, (threads, tasks))) for pair in pairs]


def assert_same_trace(one, other):
    same(one.nodes, other.nodes)
    same(one.plain_nodes, other.plain_nodes)
    np.testing.assert_allclose(one.query_vector, other.query_vector, atol=1e-6)
    np.testing.assert_allclose(one.refined_vector, other.refined_vector, atol=1e-6)
    assert one.angle == pytest.approx(other.angle, abs=1e-6)
    for name in ("query", "judgements", "changed", "reason", "trouble", "usage"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("kind", ["threads", "tasks", "both"])
async def test_each_trace_is_that_of_its_query_alone(shop, kind):
    alone = [refining(shop)[0].refine(query) for query in QUERIES]
    assert all(trace.changed for trace in alone) and len({trace.judgements for trace in alone}) == len(QUERIES)
    shared, llm = refining(shop)
    bundles = [QueryBundle(query) for query in QUERIES]
    state = dict(vars(shared))
    traces = await answers(kind, lambda i: shared.refine(bundles[i]), lambda i: shared.arefine(bundles[i]))
    assert len(traces) == {"threads": 3 * THREADS, "tasks": TASKS, "both": 3 * THREADS + TASKS}[kind]
    for i, trace in traces:
        assert_same_trace(trace, alone[i])
    assert vars(shared) == state and all(bundle.embedding is None for bundle in bundles)
    assert len(llm.prompts) == 8 * len(traces)
    # Threads share one limit, the tasks of an event loop another.
    assert 1 < llm.most_at_once <= (2 * WORKERS if kind == "both" else WORKERS)


async def test_searches_in_several_geometries_do_not_mix(shop, memory_client):
    probes = fingerprint(WordEmbedding())
    both = {facet: fitted(memory_client, facet, fingerprint=probes) for facet in ("mood", "thing")}

    def made():
        return GSTransformRetriever(
            shop.as_retriever(similarity_top_k=10),
            transform=both,
            choose=lambda query: "mood" if "angry" in query.query_str else "thing",
        )

    alone = [made().retrieve(query) for query in QUERIES]
    shared = made()
    found = await answers(
        "both", lambda i: shared.retrieve(QUERIES[i]), lambda i: shared.aretrieve(QUERIES[i]), rounds=4
    )
    assert len(found) == 4 * THREADS + TASKS
    for i, hits in found:
        same(hits, alone[i])
