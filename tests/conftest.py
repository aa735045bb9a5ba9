"""Shared fixtures: a small shop's messages in an in-process Qdrant."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator

import httpx
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from fakes import FakeOpenAI, FakeQdrant, WordEmbedding, serving
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.llms.openai_like import OpenAILike
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient

THINGS = ("printer", "router", "laptop", "phone", "watch")
MOODS = ("angry shouting furious", "happy grateful thanks", "calm plain note")


def node_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def make_nodes() -> list[TextNode]:
    nodes = []
    for t, thing in enumerate(THINGS):
        for m, mood in enumerate(MOODS):
            for copy in range(6):
                extra = " ".join(f"filler{(7 * t + 3 * m + copy + step) % 23}" for step in range(3))
                text = f"order refund {thing} {mood} {extra} number{t}{m}{copy}"
                metadata = {"thing": thing, "mood": mood.split()[0]}
                nodes.append(
                    TextNode(
                        text=text,
                        id_=node_id(text),
                        metadata=metadata,
                        excluded_embed_metadata_keys=list(metadata),
                        excluded_llm_metadata_keys=list(metadata),
                    )
                )
    return nodes


def index_over(store: QdrantVectorStore, embed_model: WordEmbedding | None = None) -> VectorStoreIndex:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect")
        return VectorStoreIndex(
            make_nodes(),
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=embed_model or WordEmbedding(),
        )


@pytest.fixture
def memory_client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def index(memory_client: QdrantClient) -> VectorStoreIndex:
    return index_over(QdrantVectorStore(collection_name="shop", client=memory_client))


@pytest.fixture
def fake_qdrant() -> Iterator[FakeQdrant]:
    fake = FakeQdrant()
    with serving(fake.respond) as url:
        fake.url = url  # type: ignore[attr-defined]
        yield fake
    fake.local.close()


@pytest.fixture
async def wire_index(fake_qdrant: FakeQdrant):
    """The same shop behind the real client wire, synchronous and asynchronous on the same data."""
    url = fake_qdrant.url  # type: ignore[attr-defined]
    client = QdrantClient(url=url, check_compatibility=False)
    aclient = AsyncQdrantClient(url=url, check_compatibility=False)
    yield index_over(QdrantVectorStore(collection_name="shop", client=client, aclient=aclient))
    client.close()
    await aclient.close()


@pytest.fixture
def fake_openai() -> Iterator[FakeOpenAI]:
    fake = FakeOpenAI()
    with serving(fake.respond) as url:
        fake.url = url + "/v1"  # type: ignore[attr-defined]
        yield fake
        fake.released.set()


@pytest.fixture
async def wire_llm(fake_openai: FakeOpenAI):
    """A LlamaIndex LLM that speaks to ``fake_openai``, its connections closed at the end."""
    with httpx.Client() as client:
        async with httpx.AsyncClient() as aclient:
            yield OpenAILike(
                model="m",
                api_base=fake_openai.url,
                api_key="sk-secret",
                is_chat_model=True,
                timeout=60.0,
                max_retries=0,
                http_client=client,
                async_http_client=aclient,
            )
            fake_openai.released.set()
