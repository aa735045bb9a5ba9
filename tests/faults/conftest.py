"""The shop behind one faulty server, and a teacher there."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from faulty_server import FaultyServer, faulty_server
from gstransform.shop import fitted, opened
from llama_index.llms.openai_like import OpenAILike
from qdrant_client import AsyncQdrantClient, QdrantClient


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture
async def shop(server):
    """An index whose searches go over the wire."""
    client = QdrantClient(url=server.url, check_compatibility=False, verify=False)
    aclient = AsyncQdrantClient(url=server.url, check_compatibility=False, verify=False)
    yield opened(server.qdrant.local, client=client, aclient=aclient)
    server.released.set()
    client.close()
    await aclient.close()


@pytest.fixture
def mood(shop, server):
    """A transform of the shop."""
    return fitted(server.qdrant.local)


@pytest.fixture
async def new_teacher(server):
    """Makes LLMs that speak to the server, with settings of their own; their connections are closed at the end."""
    with httpx.Client(verify=False) as client:
        async with httpx.AsyncClient(verify=False) as aclient:

            def made(**settings):
                given = {
                    "max_retries": 0,
                    "timeout": 60.0,
                    "http_client": client,
                    "async_http_client": aclient,
                    **settings,
                }
                return OpenAILike(
                    model="m", api_base=f"{server.url}/v1", api_key="sk-secret", is_chat_model=True, **given
                )

            yield made
            server.released.set()


@pytest.fixture
def teacher(new_teacher):
    """One that leaves failures to us."""
    return new_teacher()
