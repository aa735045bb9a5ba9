"""How long a refined retrieve takes beside a plain one, with a judge of a known delay."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode

from llama_index_instruct.refinement.retriever import RefinementRetriever

TOP_K = 10


class DelayedJudge(CustomLLM):
    """Says yes to every passage with an even number, after a delay; nobody is really asked."""

    delay: float

    @property
    def metadata(self) -> LLMMetadata:
        """Return what LlamaIndex wants to know of a model."""
        return LLMMetadata(is_chat_model=True, model_name=f"judge of {1000 * self.delay:.0f} ms")

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        """Answer after the delay, holding a thread."""
        time.sleep(self.delay)
        return _verdict(messages)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        """Answer after the delay, holding nothing."""
        await asyncio.sleep(self.delay)
        return _verdict(messages)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        """Refuse: a chat model is asked by chat."""
        raise NotImplementedError("a chat model is asked by chat")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        """Refuse: judgements are not streamed."""
        raise NotImplementedError("judgements are not streamed")


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
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import AsyncQdrantClient, QdrantClient

    rng = np.random.default_rng(0)
    nodes: list[BaseNode] = [
        TextNode(text=f"number {i}", id_=str(uuid.UUID(int=i + 1)), embedding=rng.normal(size=dimension).tolist())
        for i in range(documents)
    ]
    queries = [QueryBundle("even numbers", embedding=rng.normal(size=dimension).tolist()) for _ in range(repeats)]
    client, aclient = QdrantClient(":memory:"), AsyncQdrantClient(":memory:")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Payload indexes have no effect")
            # The two in-process clients share no data: the same nodes go into both.
            store = QdrantVectorStore(collection_name="numbers", client=client)
            astore = QdrantVectorStore(collection_name="numbers", aclient=aclient)
            store.add(nodes)
            await astore.async_add(nodes)
        plain, aplain = (
            VectorStoreIndex.from_vector_store(s, embed_model=MockEmbedding(embed_dim=dimension)).as_retriever(
                similarity_top_k=TOP_K
            )
            for s in (store, astore)
        )
        settings: dict[str, Any] = {"judged": judged, "rounds": rounds}
        slow, instant = DelayedJudge(delay=delay), DelayedJudge(delay=0.0)
        refined = RefinementRetriever(plain, llm=slow, **settings)
        arefined = RefinementRetriever(aplain, llm=slow, **settings)
        free = RefinementRetriever(plain, judge=_even, **settings)
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
    finally:
        client.close()
        await aclient.close()
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


def _verdict(messages: Sequence[ChatMessage]) -> ChatResponse:
    words = (messages[-1].content or "").split()
    passage = words[words.index("number") + 1]
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content="yes" if int(passage) % 2 == 0 else "no")
    )


def _even(_: str, passages: list[str]) -> list[float]:
    return [float(int(passage.split()[-1]) % 2 == 0) for passage in passages]
