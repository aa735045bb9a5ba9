"""F19 to F24: Qdrant is down, dies, is empty or changes, under a search and under a whole-collection transform."""

from __future__ import annotations

import numpy as np
import pytest
from doors import DOORS, QUERY, WAYS, ask, door_of, hits_of, plain, refining, reranking, searching
from fakes import DIMENSION, ScriptedLLM, WordEmbedding
from fallback import assert_falls_back
from faulty_server import closed_port, faulty
from gstransform.shop import fitted, ids, recorded, same
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import QueryBundle
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from llama_index_instruct import CollectionError, ConfigurationError, transform_collection

BREAKS = ["500", "html", "cut", "closed"]
POINTS = 90


async def error_of(door, way):
    with pytest.raises(Exception) as caught:
        await ask(door, way)
    return caught.value


@pytest.mark.parametrize("mode", BREAKS)
@pytest.mark.parametrize("name", ["refining", "searching"])
async def test_f19_the_first_search_fails(shop, mood, server, name, mode):
    """The very error of the plain retriever, and never an empty list in its place."""
    server.storing = lambda operation, before: mode
    for way in WAYS:
        expected, found = await error_of(plain(shop), way), await error_of(door_of(name, shop, mood), way)
        assert (type(found), str(found)) == (type(expected), str(expected))


@pytest.mark.parametrize("name", ["refining", "searching"])
async def test_f19_nobody_listens(shop, mood, name):
    nowhere = {"url": f"http://127.0.0.1:{closed_port()}", "check_compatibility": False, "verify": False}
    store = shop.vector_store
    store._client, store._aclient = QdrantClient(**nowhere), AsyncQdrantClient(**nowhere)
    for way in WAYS:
        expected, found = await error_of(plain(shop), way), await error_of(door_of(name, shop, mood), way)
        assert (type(found), str(found)) == (type(expected), str(expected))
    store._client.close()
    await store._aclient.close()


async def test_f19_the_first_search_hangs(shop, server):
    shop.vector_store._client = QdrantClient(url=server.url, check_compatibility=False, verify=False, timeout=1)
    server.storing = lambda operation, before: "hang" if operation == "query" else "ok"
    assert "timed out" in str(await error_of(refining(shop), "sync"))
    shop.vector_store._client.close()


@pytest.mark.parametrize("mode", BREAKS)
@pytest.mark.parametrize("operation", [("fetch", 0), ("query", 1)], ids=["fetch", "second search"])
async def test_f20_qdrant_dies_under_a_refinement(shop, server, operation, mode):
    hits = plain(shop).retrieve(QUERY)
    server.storing = faulty({operation: mode})
    await assert_falls_back(refining(shop), hits, "in the refinement stage", server=server)


@pytest.mark.parametrize("mode", BREAKS)
async def test_f20_qdrant_dies_before_the_vectors_come(shop, mood, server, mode):
    """The search falls back to the order it found, with the search vector; the postprocessor to what it was given."""
    vector = mood.search_vector(WordEmbedding().get_query_embedding(QUERY)).tolist()
    found, hits = plain(shop).retrieve(QueryBundle(QUERY, embedding=vector)), plain(shop).retrieve(QUERY)
    server.storing = faulty({("fetch", 0): mode})
    for door, expected in ((searching(shop, mood), found), (reranking(shop, mood), hits)):
        await assert_falls_back(
            door, expected, "hits keep the order they came in", server=server, hits=hits, error=Exception
        )


@pytest.mark.parametrize("way", WAYS)
async def test_f21_an_empty_collection(server, shop, mood, way):
    size = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
    server.qdrant.local.create_collection("empty", vectors_config=size)
    store = QdrantVectorStore("empty", client=shop.vector_store.client, aclient=shop.vector_store._aclient)
    index = VectorStoreIndex.from_vector_store(store, embed_model=WordEmbedding())
    llm = ScriptedLLM(rule=lambda passage: 1.0)
    with recorded() as said:
        trace = await ask(refining(index, llm=llm), way)
        assert await ask(searching(index, mood), way) == [] == trace.nodes
    assert llm.prompts == [] and trace.calls == 0 and "found nothing" in trace.reason and not said


@pytest.mark.parametrize("way", WAYS)
async def test_f21_a_missing_collection(shop, mood, server, way):
    server.qdrant.local.delete_collection("shop")
    for name in ("refining", "searching"):
        error = await error_of(door_of(name, shop, mood), way)
        assert type(error) is type(await error_of(plain(shop), way)) and "shop not found" in str(error)


@pytest.mark.parametrize("way", WAYS)
async def test_f21_a_collection_deleted_midway(shop, server, way):
    hits = plain(shop).retrieve(QUERY)

    def vanishing(operation, before):
        if operation == "fetch":
            server.qdrant.local.delete_collection("shop")
        return "ok"

    server.storing = vanishing
    with recorded() as said:
        trace = await ask(refining(shop), way)
    same(trace.nodes, hits)
    assert len(said) == 1 and "UnexpectedResponse" in said[0] and not trace.changed


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("way", WAYS)
async def test_f22_more_asked_for_than_there_is(shop, mood, name, way):
    everything = plain(shop, 500).retrieve(QUERY)
    with recorded() as said:
        hits = hits_of(await ask(door_of(name, shop, mood, top_k=500), way, hits=everything))
    assert len(hits) == len(set(ids(hits))) == POINTS and not said


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("count", [0, -1])
def test_f22_none_or_fewer_asked_for(shop, mood, name, count):
    with pytest.raises(ConfigurationError, match=rf"top_[kn]: expected 1 or more.* found {count}"):
        door_of(name, shop, mood, top_k=count)
    with pytest.raises(ConfigurationError, match=f"judged: expected 2 or more, found {count}"):
        refining(shop, judged=count)


def points_of(client, name):
    """Id -> payload and vector, as stored."""
    points = client.scroll(name, limit=1000, with_vectors=True)[0]
    return {point.id: (point.payload, point.vector) for point in points}


def aliases_of(client):
    return {known.alias_name: known.collection_name for known in client.get_aliases().aliases}


def interrupted(write, after):
    """A write that is cut off by Ctrl-C once so many were made."""
    made = []

    def interrupting(*args, **kwargs):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(args)
        return write(*args, **kwargs)

    return interrupting


@pytest.mark.parametrize("page", [0, 1, 4])
@pytest.mark.parametrize("stop", ["500", "Ctrl-C"])
async def test_f23_a_transform_stopped_at_a_page_is_taken_up(shop, mood, server, monkeypatch, page, stop):
    local, client = server.qdrant.local, shop.vector_store.client
    source = points_of(local, "shop")
    given = {"page": 20, "batch": 20, "parallel": 1, "retries": 0, "progress": False}
    server.forget()
    with monkeypatch.context() as patch:
        if stop == "500":
            server.storing = faulty({("write", page): "500"})
        else:
            patch.setattr(client, "upsert", interrupted(client.upsert, page))
        with pytest.raises(CollectionError if stop == "500" else KeyboardInterrupt):
            transform_collection(client, "shop", "mood", mood, alias="live", **given)
    assert aliases_of(local) == {} and 20 * page <= len(points_of(local, "mood")) < POINTS
    report = transform_collection(client, "shop", "mood", mood, alias="live", **given)
    assert report.complete and report.transformed <= POINTS and aliases_of(local) == {"live": "mood"}
    transform_collection(client, "shop", "whole", mood, **given)
    stopped, through = points_of(local, "mood"), points_of(local, "whole")
    assert {key: payload for key, (payload, _) in stopped.items()} == {
        key: payload for key, (payload, _) in source.items()
    }
    np.testing.assert_allclose([v for _, v in stopped.values()], [v for _, v in through.values()], atol=1e-7)
    assert transform_collection(client, "shop", "mood", mood, **given).transformed == 0
    with pytest.raises(CollectionError, match="another transform"):
        transform_collection(client, "shop", "mood", fitted(local, "thing"), **given)
    assert points_of(local, "shop") == source


async def test_f24_points_added_behind_the_cursor(shop, mood, server):
    """The final count finds them: an error and no alias, and the same call again goes over all of it."""
    local, client = server.qdrant.local, shop.vector_store.client
    given = {"page": 20, "batch": 20, "progress": False, "alias": "live"}

    def growing(operation, before):
        if (operation, before) == ("scroll", 2):
            local.upsert("shop", [models.PointStruct(id=1, vector=[1.0] * DIMENSION, payload={})])
        return "ok"

    server.forget()
    server.storing = growing
    with pytest.raises(CollectionError, match=f"expected {POINTS + 1} transformed points, found {POINTS}.*same call"):
        transform_collection(client, "shop", "mood", mood, **given)
    assert aliases_of(local) == {}
    assert transform_collection(client, "shop", "mood", mood, **given).transformed == POINTS + 1
    assert aliases_of(local) == {"live": "mood"} and set(points_of(local, "mood")) == set(points_of(local, "shop"))
