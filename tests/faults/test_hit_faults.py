"""F25 to F27 and F36: hits that are duplicates or have no vector, and what the second search must keep."""

from __future__ import annotations

import numpy as np
import pytest
from doors import DOORS, QUERY, TOP_K, WAYS, ask, door_of, furious, hits_of, plain, refining, reranking, searching
from fakes import WordEmbedding
from fallback import assert_falls_back
from gstransform.shop import hybrid_store, ids, named_store, recorded, same
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, node_id
from qdrant_client import models

from llama_index_instruct import ConfigurationError, GSTransformRetriever, RefinementRetriever


@pytest.mark.parametrize("way", WAYS)
async def test_f25_six_copies_of_a_text(shop, mood, server, way):
    """They weigh as much as one, and come once each, in the same order every time."""
    six = [TextNode(text="order refund printer furious", id_=node_id(f"copy {i}")) for i in range(6)]
    vector = WordEmbedding().get_text_embedding(six[0].text)
    points = [models.PointStruct(id=n.node_id, vector=vector, payload={"_node_content": n.to_json()}) for n in six]
    server.qdrant.local.upsert("shop", points[:1])
    one = await ask(refining(shop, candidates=95), way)
    server.qdrant.local.upsert("shop", points)
    trace = await ask(refining(shop, candidates=100), way)
    assert len({node.node_id for node in six} & {judged.node_id for judged in trace.judgements}) == 1
    np.testing.assert_allclose(trace.refined_vector, one.refined_vector, atol=1e-6)
    for door in (refining(shop, top_k=20), searching(shop, mood, top_k=20)):
        first, again = hits_of(await ask(door, way)), hits_of(await ask(door, way))
        assert len(set(ids(first))) == len(first) == 20
        same(first, again)


class Doubling(BaseRetriever):
    """Finds everything twice."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__()

    def _retrieve(self, query_bundle):
        return 2 * self.inner.retrieve(query_bundle)

    async def _aretrieve(self, query_bundle):
        return 2 * await self.inner.aretrieve(query_bundle)


@pytest.mark.parametrize("way", WAYS)
async def test_f25_hits_that_come_twice(shop, mood, way):
    parts = {"vector_store": shop.vector_store, "embed_model": WordEmbedding()}
    once = RefinementRetriever(plain(shop), judge=furious, judged=TOP_K, candidates=TOP_K)
    trace = await ask(RefinementRetriever(Doubling(plain(shop)), judge=furious, judged=TOP_K, **parts), way)
    assert len({judged.node_id for judged in trace.judgements}) == len(trace.judgements) == TOP_K
    np.testing.assert_allclose(trace.refined_vector, (await ask(once, way)).refined_vector, atol=1e-6)
    hits = plain(shop).retrieve(QUERY)
    ranked = await ask(reranking(shop, mood, top_k=2 * TOP_K), way, hits=hits + hits)
    assert ids(ranked)[::2] == ids(ranked)[1::2] == ids(await ask(reranking(shop, mood), way, hits=hits))


def two_vectors(shop, server):
    """The shop anew, with two named vectors a point."""
    server.qdrant.local.delete_collection("shop")
    index_over(named_store(server.qdrant.local))
    clients = {"client": shop.vector_store.client, "aclient": shop.vector_store._aclient}
    store = QdrantVectorStore("shop", dense_vector_name="text-dense", **clients)
    return VectorStoreIndex.from_vector_store(store, embed_model=WordEmbedding())


@pytest.mark.parametrize("gone", ["point", "vector"])
@pytest.mark.parametrize("way", WAYS)
async def test_f26_some_hits_lose_their_vector_after_the_search(shop, server, gone, way):
    """They are left out of the refinement, by name, and nothing else is."""
    local, index = server.qdrant.local, two_vectors(shop, server)
    victims = ids(plain(index).retrieve(QUERY))[:3]

    def losing(operation, before):
        if operation == "fetch" and gone == "point":
            local.delete("shop", victims)
        elif operation == "fetch":
            local.delete_vectors("shop", ["text-dense"], victims)
        return "ok"

    server.storing = losing
    with recorded() as said:
        trace = await ask(refining(index), way)
    assert len(said) == 1 and all(victim in said[0] for victim in victims)
    assert trace.changed and len(trace.judgements) == 20
    assert not set(victims) & {judged.node_id for judged in trace.judgements}


async def test_f26_no_hit_has_a_vector(shop, mood, server, monkeypatch):
    monkeypatch.setattr(server.qdrant.local, "retrieve", lambda *args, **kwargs: [])
    hits = plain(shop).retrieve(QUERY)
    await assert_falls_back(refining(shop), hits, "no hit has a usable stored vector", server=server)
    door = reranking(shop, mood)
    await assert_falls_back(door, hits, "MissingVectorsError", server=server, hits=hits, error=LookupError)


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("way", WAYS)
async def test_f27_vectors_come_in_one_call_and_are_aligned_by_id(shop, mood, server, monkeypatch, name, way):
    door, hits = door_of(name, shop, mood), plain(shop).retrieve(QUERY)
    usual = hits_of(await ask(door, way, hits=hits))
    retrieve = server.qdrant.local.retrieve
    monkeypatch.setattr(server.qdrant.local, "retrieve", lambda *args, **kwargs: retrieve(*args, **kwargs)[::-1])
    server.forget()
    same(hits_of(await ask(door, way, hits=hits)), usual)
    assert server.operations.count("fetch") == 1 and all(hit.node.embedding is None for hit in hits)


@pytest.mark.parametrize("word", ["router", "furious"])
@pytest.mark.parametrize("way", WAYS)
async def test_f36_both_searches_carry_the_filters(shop, server, word, way):
    """Also where the filters keep out every document the teacher would say yes to."""
    filters = MetadataFilters(filters=[MetadataFilter(key="mood", value="happy")])
    inner = shop.as_retriever(similarity_top_k=TOP_K, filters=filters)
    server.forget()
    door = RefinementRetriever(inner, judge=lambda query, passages: [float(word in passage) for passage in passages])
    trace = await ask(door, way)
    sent = [body["filter"] for _, path, body in server.qdrant.log if path.endswith("/query")]
    assert trace.changed == (word == "router") and len(sent) == 1 + trace.changed
    assert all(body == sent[0] and "happy" in str(body) for body in sent)
    assert len(trace.nodes) == TOP_K and {hit.node.metadata["mood"] for hit in trace.nodes} == {"happy"}


def test_f36_hybrid_search_stays_hybrid(memory_client):
    index = index_over(hybrid_store(memory_client))
    inner = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=30, sparse_top_k=30, hybrid_top_k=30)
    trace = RefinementRetriever(inner, judge=furious).refine(QUERY)
    assert trace.changed
    same(trace.nodes, inner.retrieve(QueryBundle(QUERY, embedding=trace.refined_vector.tolist())))


@pytest.mark.parametrize("mode", ["mmr", "sparse", "text_search"])
def test_f36_modes_without_one_dense_vector(shop, mood, mode):
    inner = shop.as_retriever(vector_store_query_mode=VectorStoreQueryMode(mode))
    for made in (
        lambda: RefinementRetriever(inner, judge=furious),
        lambda: GSTransformRetriever(inner, transform=mood),
    ):
        with pytest.raises(ConfigurationError, match=f"query mode '{mode}'"):
            made()
