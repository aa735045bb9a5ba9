"""F9 to F15: vectors that are not finite, huge, zero, of another size, of another model or of another length."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from doors import DOORS, QUERY, TOP_K, WAYS, ask, door_of, hits_of, plain, refining, reranking, searching
from fakes import DIMENSION, WordEmbedding
from gstransform.shop import NoEmbedding, OtherWords, fitted, ids, recorded, same, scores_of, store_of
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from messages import index_over
from qdrant_client import models

from llama_index_instruct import ConfigurationError, GSTransform, refine_query
from llama_index_instruct.errors import DimensionMismatchError, IncompatibleStoreError
from llama_index_instruct.gstransform.fingerprint import fingerprint
from llama_index_instruct.gstransform.transform import TransformInfo

UNSOUND = {"nan": [math.nan] * DIMENSION, "inf": [math.inf] + [0.0] * (DIMENSION - 1), "zero": [0.0] * DIMENSION}


class UnsoundEmbedding(WordEmbedding):
    vector: list[float]

    def _vector(self, text):
        return self.vector


@pytest.fixture
def hits(shop):
    return plain(shop).retrieve(QUERY)


def replace_stored(server, monkeypatch, changed):
    """What the server holds for these nodes when it is asked for their vectors, though not when it searches."""
    retrieve = server.qdrant.local.retrieve

    def altered(*args, **kwargs):
        points = retrieve(*args, **kwargs)
        return [p.model_copy(update={"vector": changed.get(p.id, p.vector)}) for p in points]

    monkeypatch.setattr(server.qdrant.local, "retrieve", altered)


async def assert_refused(door, server, hits, error, words):
    """A typed error, sync and async, before anything is searched or fetched."""
    for way in WAYS:
        server.forget()
        with pytest.raises(error, match=words):
            await ask(door, way, hits=hits)
        assert not {"query", "fetch"} & set(server.operations)


@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("name", DOORS)
async def test_f09_query_vectors_that_are_not_finite(shop, mood, server, hits, name, kind):
    door = door_of(name, shop, mood, embed_model=UnsoundEmbedding(vector=UNSOUND[kind]))
    await assert_refused(door, server, hits, ConfigurationError, "query embedding: expected finite")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("way", WAYS)
async def test_f10_stored_vectors_that_are_not_finite(shop, mood, server, hits, monkeypatch, value, way):
    victim = ids(hits)[2]
    replace_stored(server, monkeypatch, {victim: [value] * DIMENSION})
    with recorded() as said:
        trace = await ask(refining(shop), way)
    assert len(said) == 1 and victim in said[0]
    assert trace.changed and victim not in {judged.node_id for judged in trace.judgements}
    found = server.qdrant.local.query_points("shop", query=trace.refined_vector.tolist(), limit=TOP_K).points
    assert [(hit.node.node_id, pytest.approx(hit.score)) for hit in trace.nodes] == [(p.id, p.score) for p in found]
    for door in (reranking(shop, mood), searching(shop, mood)):
        with recorded() as said:
            ranked = hits_of(await ask(door, way, hits=hits))
        assert len(said) == 1 and victim in said[0]
        assert victim not in ids(ranked) or (ids(ranked)[-1], ranked[-1].score) == (victim, None)


@pytest.mark.parametrize("length", [1e-30, 1e38])
@pytest.mark.parametrize("way", WAYS)
async def test_f11_the_length_of_a_query_vector_does_not_upset_refinement(shop, length, way):
    vector = np.array(WordEmbedding().get_query_embedding(QUERY))
    usual = await ask(refining(shop), way)
    with recorded() as said:
        trace = await ask(refining(shop), way, query=QueryBundle(QUERY, embedding=(length * vector).tolist()))
    assert np.isfinite(trace.refined_vector).all() and not said
    same(trace.nodes, usual.nodes)


@pytest.mark.parametrize(
    "settings", [{}, {"method": "kl"}, {"method": "rocchio"}, {"scale": 1e6}, {"scale": 1e-6}, {"precision": 1e-6}]
)
@pytest.mark.parametrize("length", [1e-38, 1.0, 1e38])
def test_f11_refined_vectors_are_finite_and_of_length_one(settings, length):
    query, *passages = (length * np.random.default_rng(1).normal(size=(9, 16))).astype(np.float32)
    refined = refine_query(query, np.array(passages), [1.0, 0.0] * 4, **settings)
    assert np.linalg.norm(refined.vector) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", DOORS)
async def test_f12_a_query_vector_of_zeros(shop, mood, server, hits, name):
    door = door_of(name, shop, mood, embed_model=UnsoundEmbedding(vector=UNSOUND["zero"]))
    await assert_refused(door, server, hits, ConfigurationError, "norm above 0")


@pytest.mark.parametrize("way", WAYS)
async def test_f12_a_hit_of_zeros(shop, mood, server, hits, monkeypatch, way):
    victim = ids(hits)[0]
    replace_stored(server, monkeypatch, {victim: UNSOUND["zero"]})
    with recorded() as said:
        trace = await ask(refining(shop), way)
    assert trace.changed and len(said) == 1 and victim in said[0]
    with recorded() as said:
        ranked = await ask(reranking(shop, mood), way, hits=hits)
    assert not said and dict(zip(ids(ranked), scores_of(ranked), strict=True))[victim] == 0.0


@pytest.mark.parametrize("way", WAYS)
async def test_f12_a_map_onto_nothing(shop, server, hits, way):
    zero = np.zeros((3, DIMENSION), dtype=np.float32)
    door = reranking(shop, GSTransform(((zero, zero[:, 0]),), zero.T, TransformInfo()))
    with pytest.raises(ConfigurationError, match="maps it to zero"):
        await ask(door, way, hits=hits)
    flat = np.eye(1, DIMENSION, dtype=np.float32)
    nodes = [TextNode(text="x", embedding=vector) for vector in np.eye(3, DIMENSION).tolist()]
    carried = [NodeWithScore(node=node) for node in nodes]
    door = reranking(shop, GSTransform(((flat, flat[:, 1]),), flat.T, TransformInfo()))
    ranked = await ask(door, way, query=QueryBundle(QUERY, embedding=[1.0] * DIMENSION), hits=carried)
    assert scores_of(ranked) == [1.0, 0.0, 0.0]


def small():
    return GSTransform.from_labels(np.random.default_rng(0).normal(size=(20, 3)), ["a", "b"] * 10)


@pytest.mark.parametrize("name", ["searching", "reranking"])
async def test_f13_sizes_that_differ(shop, mood, server, hits, name):
    other = door_of(name, shop, small(), embed_model=NoEmbedding())
    await assert_refused(other, server, hits, DimensionMismatchError, "transform expects 3, collection 'shop' has 64")
    narrow = door_of(name, shop, mood, embed_model=OtherWords(size=32))
    await assert_refused(narrow, server, hits, DimensionMismatchError, "expects 64, the query embedding has 32")


@pytest.mark.parametrize("way", WAYS)
async def test_f13_carried_vectors_of_another_size(shop, mood, way):
    carried = [NodeWithScore(node=TextNode(text="x", embedding=[1.0, 2.0, 3.0]), score=0.1)]
    with pytest.raises(DimensionMismatchError, match=r"64.*3"):
        await ask(reranking(shop, mood), way, hits=carried)


@pytest.mark.parametrize("name", ["searching", "reranking"])
async def test_f14_another_model_of_the_same_size(shop, server, hits, name):
    marked = fitted(server.qdrant.local, embed_model="words", fingerprint=fingerprint(WordEmbedding()))
    door = door_of(name, shop, marked, embed_model=OtherWords())
    await assert_refused(door, server, hits, IncompatibleStoreError, r"'words'.*'other words'")
    for way in WAYS:
        allowed = door_of(name, shop, marked, embed_model=OtherWords(), allow_other_model=True)
        with recorded() as said:
            assert len(await ask(allowed, way, hits=hits)) == TOP_K
        assert len(said) == 1 and re.search(r"'words'.*'other words'", said[0])


@pytest.mark.parametrize("name", ["searching", "reranking"])
async def test_f15_raw_vectors_and_a_collection_of_unit_vectors(shop, server, hits, name):
    raw = fitted(server.qdrant.local, normalize=False)
    door = door_of(name, shop, raw, embed_model=NoEmbedding())
    await assert_refused(door, server, hits, IncompatibleStoreError, r"normalize=False.*'shop'.*Cosine")
    euclidean = fitted(server.qdrant.local, distance="Euclid")
    door = door_of(name, shop, euclidean, embed_model=NoEmbedding())
    await assert_refused(door, server, hits, IncompatibleStoreError, r"fitted on Euclid.*'shop'.*Cosine")


@pytest.mark.parametrize("name", ["searching", "reranking"])
async def test_f15_raw_vectors_and_a_collection_that_keeps_them(memory_client, name):
    index = index_over(store_of(memory_client, models.Distance.DOT))
    raw = fitted(memory_client, normalize=False, distance="Dot")
    assert len(await ask(door_of(name, index, raw), "sync", hits=plain(index).retrieve(QUERY))) == TOP_K
