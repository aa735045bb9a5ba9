import numpy as np
import pytest
from fakes import WordEmbedding
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, make_nodes, node_id
from qdrant_client import AsyncQdrantClient, models

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError
from llama_index_instruct.vectors import astored_vectors, stored_vectors


def expected(nodes):
    return np.array([WordEmbedding().get_text_embedding(node.text) for node in nodes], dtype=np.float32)


async def test_in_node_order_by_one_request(wire_index, fake_qdrant):
    nodes = make_nodes()[10:40][::-1]
    nodes = [nodes[3], *nodes]
    fake_qdrant.log.clear()
    found = stored_vectors(nodes, wire_index.vector_store)
    np.testing.assert_allclose(found, expected(nodes), atol=1e-6)
    assert len(fake_qdrant.log) == 1 and len(fake_qdrant.log[0][2]["ids"]) == 30
    np.testing.assert_array_equal(await astored_vectors(nodes, wire_index.vector_store), found)


def test_what_is_not_stored_is_nan_or_encoded(index):
    nodes = [make_nodes()[0], TextNode(text="never stored", id_=node_id("never stored"))]
    found = stored_vectors(nodes, index.vector_store)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
    encoded = stored_vectors(nodes, index.vector_store, embed_model=WordEmbedding())
    np.testing.assert_allclose(encoded, expected(nodes), atol=1e-6)


def test_a_carried_vector_is_taken_as_it_is(index):
    node = TextNode(text="x", embedding=[3.0] * 64)
    np.testing.assert_array_equal(stored_vectors([node], index.vector_store), np.full((1, 64), 3.0))


def test_named_vectors_are_told_apart(memory_client):
    memory_client.create_collection(
        "named",
        vectors_config={
            name: models.VectorParams(size=size, distance=models.Distance.COSINE)
            for name, size in (("text-dense", 64), ("other", 3))
        },
    )
    index = index_over(QdrantVectorStore(collection_name="named", client=memory_client))
    nodes = make_nodes()[:5]
    np.testing.assert_allclose(stored_vectors(nodes, index.vector_store), expected(nodes), atol=1e-6)


async def test_other_stores(memory_client):
    store = SimpleVectorStore()
    VectorStoreIndex(
        make_nodes(),
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=WordEmbedding(),
    )
    nodes = [*make_nodes()[:4], TextNode(text="never stored")]
    found = stored_vectors(nodes, store)
    np.testing.assert_allclose(found[:4], expected(nodes[:4]), atol=1e-6)
    assert np.isnan(found[4]).all()
    np.testing.assert_array_equal(await astored_vectors(nodes, store), found)


async def test_a_missing_client_is_named(memory_client):
    aclient = AsyncQdrantClient(":memory:")
    only_async = QdrantVectorStore(collection_name="c", aclient=aclient)
    with pytest.raises(ConfigurationError, match="aretrieve"):
        stored_vectors(make_nodes()[:1], only_async)
    await aclient.close()
    only_sync = QdrantVectorStore(collection_name="c", client=memory_client)
    with pytest.raises(ConfigurationError, match="AsyncQdrantClient"):
        await astored_vectors(make_nodes()[:1], only_sync)


def test_vectors_of_two_sizes_are_an_error():
    nodes = [TextNode(text="a", embedding=[1.0]), TextNode(text="b", embedding=[1.0, 2.0])]
    with pytest.raises(DimensionMismatchError, match=r"\[1, 2\]"):
        stored_vectors(nodes)


def test_no_nodes():
    assert stored_vectors([]).shape == (0, 0)


@pytest.mark.parametrize("spell", [lambda id_: id_.replace("-", ""), str.upper, lambda id_: f"urn:uuid:{id_}"])
def test_an_id_may_be_spelt_in_several_ways(index, spell):
    node = make_nodes()[0]
    found = stored_vectors([TextNode(text=node.text, id_=spell(node.node_id))], index.vector_store)
    np.testing.assert_allclose(found, expected([node]), atol=1e-6)


def test_collections_with_numbers_for_ids(memory_client):
    memory_client.create_collection(
        "numbered", vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE)
    )
    memory_client.upsert("numbered", [models.PointStruct(id=5, vector=[0.6, 0.8])])
    store = QdrantVectorStore(collection_name="numbered", client=memory_client)
    np.testing.assert_allclose(stored_vectors([TextNode(text="x", id_="5")], store), [[0.6, 0.8]], atol=1e-6)
