"""The shop of these tests, in process and behind a loopback server, with a transform of each."""

import pytest
from gstransform.shop import fitted, opened
from qdrant_client import AsyncQdrantClient, QdrantClient


@pytest.fixture
def index(memory_client):
    return opened(memory_client)


@pytest.fixture
async def wire_index(fake_qdrant):
    client = QdrantClient(url=fake_qdrant.url, check_compatibility=False, verify=False)
    aclient = AsyncQdrantClient(url=fake_qdrant.url, check_compatibility=False, verify=False)
    yield opened(fake_qdrant.local, client=client, aclient=aclient)
    client.close()
    await aclient.close()


@pytest.fixture
def transform(index, memory_client):
    return fitted(memory_client)


@pytest.fixture
def wire_transform(wire_index, fake_qdrant):
    return fitted(fake_qdrant.local)
