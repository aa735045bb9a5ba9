"""Shared fixtures: a small shop's messages in an in-process Qdrant."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator

import httpx
import pytest
import torch
from threadpoolctl import threadpool_limits

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("COLUMNS", "160")  # tables and messages as on a wide terminal, wherever the tests run

from fakes import FakeOpenAI, FakeQdrant, serving
from llama_index.core import VectorStoreIndex
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.llms.openai_like import OpenAILike
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over
from qdrant_client import AsyncQdrantClient, QdrantClient

# Files of few tests that take long; handed out last, they would leave the other processes idle.
LONG_FILES = ("test_docs.py", "test_demo.py", "test_load.py", "test_full_report.py", "test_recipe_bench.py")


def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules: with PyTorch and its kind imported every full pass takes a third of a second."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On models and arrays this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def first_event_loop() -> Iterator[None]:
    """Closed at the end. Left to itself pytest-asyncio makes one, and the next ``asyncio.run`` drops it unclosed."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture(scope="session")
def texts_encoded_once() -> Iterator[None]:
    """The real encoder, asked for each text once: the examples and the demo all index the same tickets."""
    known: dict[tuple[str, str], list[float]] = {}
    encode = HuggingFaceEmbedding._get_text_embeddings

    def remembered(model: HuggingFaceEmbedding, texts: list[str]) -> list[list[float]]:
        new = [text for text in dict.fromkeys(texts) if (model.model_name, text) not in known]
        known.update(zip([(model.model_name, text) for text in new], encode(model, new) if new else [], strict=True))
        return [known[model.model_name, text] for text in texts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HuggingFaceEmbedding, "_get_text_embeddings", remembered)
        yield


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
