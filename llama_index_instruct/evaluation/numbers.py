"""Documents called "number 0", "number 1", ... with random vectors, and judges for which the even ones are relevant."""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.schema import BaseNode, TextNode

from llama_index_instruct.evaluation.chat_llm import ChatOnlyLLM, chat_response

QUERY = "even numbers"
TOP_K = 10


@asynccontextmanager
async def numbered_documents(
    count: int, dimension: int, rng: np.random.Generator
) -> AsyncIterator[tuple[BaseRetriever, BaseRetriever]]:
    """Yield a plain retriever for synchronous and one for asynchronous use, over the same in-process collection.

    Args:
        count: Of the documents.
        dimension: Of their vectors.
        rng: Draws them.
    """
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import AsyncQdrantClient, QdrantClient

    nodes: list[BaseNode] = [
        TextNode(text=f"number {i}", id_=str(uuid.UUID(int=i + 1)), embedding=rng.normal(size=dimension).tolist())
        for i in range(count)
    ]
    client, aclient = QdrantClient(":memory:"), AsyncQdrantClient(":memory:")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Payload indexes have no effect")
            # The two in-process clients share no data: the same nodes go into both.
            store = QdrantVectorStore(collection_name="numbers", client=client)
            astore = QdrantVectorStore(collection_name="numbers", aclient=aclient)
            store.add(nodes)
            await astore.async_add(nodes)
        embed_model = MockEmbedding(embed_dim=dimension)
        plain, aplain = (
            VectorStoreIndex.from_vector_store(each, embed_model=embed_model).as_retriever(similarity_top_k=TOP_K)
            for each in (store, astore)
        )
        yield plain, aplain
    finally:
        client.close()
        await aclient.close()


def even(_: str, passages: list[str]) -> list[float]:
    """Judge: 1 for passages with an even number."""
    return [float(int(passage.split()[-1]) % 2 == 0) for passage in passages]


class DelayedJudge(ChatOnlyLLM):
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


def _verdict(messages: Sequence[ChatMessage]) -> ChatResponse:
    words = (messages[-1].content or "").split()
    passage = words[words.index("number") + 1]
    return chat_response("yes" if int(passage) % 2 == 0 else "no")
