"""GSTransformPostprocessor on in-process stores and on the real client wire."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
import threading
import time
from types import MappingProxyType

import numpy as np
import pytest
from fakes import WordEmbedding
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, node_id
from qdrant_client import AsyncQdrantClient, models
from shop import (
    QUERY,
    NoEmbedding,
    OtherWords,
    angry,
    by_hand,
    events,
    fitted,
    hybrid_store,
    ids,
    named_store,
    plain_of,
    ranking_by_hand,
    recorded,
    same,
    scores_of,
    simple_index,
    store_of,
    vectors_in,
)

from llama_index_instruct import ConfigurationError, InstructWarning, MissingVectorsError
from llama_index_instruct.errors import DimensionMismatchError, IncompatibleStoreError, TransformFileError
from llama_index_instruct.gstransform.course import GSTransformEvent
from llama_index_instruct.gstransform.fingerprint import fingerprint
from llama_index_instruct.gstransform.postprocessor import GSTransformPostprocessor
from llama_index_instruct.gstransform.transform import GSTransform, TransformInfo


def door(transform, index=None, **settings):
    store = {} if index is None else {"vector_store": index.vector_store}
    return GSTransformPostprocessor(transform, **{"embed_model": WordEmbedding(), **store, **settings})


def rerank(door, hits, query=QUERY):
    return door.postprocess_nodes(hits, query_str=query)


async def arerank(door, hits, query=QUERY):
    return await door.apostprocess_nodes(hits, query_str=query)


def posts(fake, since=0):
    """The end of the path of each request that is not a question about the collection itself."""
    return [path.split("/points")[-1] for verb, path, _ in fake.log[since:] if verb == "POST"]


def poison(client, key, value):
    store = client._client.collections["shop"] if hasattr(client, "_client") else client.collections["shop"]
    store.vectors[""][store.ids[key]] = value


# --- The ranking ----------------------------------------------------------------------------------------------------


def test_hits_are_ranked_by_transformed_cosine(index, memory_client, transform):
    hits = plain_of(index)
    ranked = rerank(door(transform, index), hits)
    keys, scores = ranking_by_hand(transform, vectors_in(memory_client), ids(hits))
    assert ids(ranked) == keys != ids(hits)
    np.testing.assert_allclose(scores_of(ranked), scores, atol=1e-6)
    assert angry(ranked[:20]) == 20 > angry(hits[:20])


def test_what_is_given_is_not_changed(index, transform):
    hits, bundle = plain_of(index), QueryBundle(QUERY)
    before, nodes = copy.deepcopy(hits), [hit.node for hit in hits]
    ranked = door(transform, index, keep_retrieval_score=True, top_n=7).postprocess_nodes(hits, bundle)
    assert hits == before and [hit.node for hit in hits] == nodes and bundle == QueryBundle(QUERY)
    assert all(a.to_dict() == b.to_dict() for a, b in zip(hits, before, strict=True))
    assert not {id(hit) for hit in ranked} & {id(hit) for hit in hits}


def test_scores_are_python_floats_that_json_takes(index, transform):
    for hit in rerank(door(transform, index), plain_of(index)):
        assert type(hit) is NodeWithScore and type(hit.score) is float and -1.0 <= hit.score <= 1.0
        assert json.loads(hit.to_json())["score"] == hit.score


def test_the_score_before_is_kept_where_asked(index, transform):
    hits = plain_of(index)
    before = dict(zip(ids(hits), scores_of(hits), strict=True))
    for hit in rerank(door(transform, index, keep_retrieval_score=True), hits):
        assert hit.node.metadata["retrieval_score"] == before[hit.node.node_id]
    assert all("retrieval_score" not in hit.node.metadata for hit in [*hits, *rerank(door(transform, index), hits)])


@pytest.mark.parametrize("top_n", [1, 7, 40, 1000])
def test_top_n(index, transform, top_n):
    hits = plain_of(index)
    same(rerank(door(transform, index, top_n=top_n), hits), rerank(door(transform, index), hits)[:top_n])


def carried(vectors):
    return [
        NodeWithScore(node=TextNode(text=f"t{i}", id_=str(i), embedding=list(map(float, vector))), score=0.5)
        for i, vector in enumerate(vectors)
    ]


def test_ties_keep_their_order(transform):
    vector = WordEmbedding().get_text_embedding("printer")
    best = WordEmbedding().get_text_embedding(QUERY)
    ranked = rerank(door(transform, vector_store=None), carried([vector] * 9 + [best] + [vector] * 9))
    assert ids(ranked) == ["9", *map(str, range(9)), *map(str, range(10, 19))]
    # Equal vectors may differ in the last digit, by their place in the block.
    assert np.ptp(scores_of(ranked)[1:]) < 1e-6


def test_nodes_that_carry_their_vectors_need_no_store(index, memory_client, transform):
    hits, stored = plain_of(index), vectors_in(memory_client)
    for hit in hits:
        hit.node.embedding = (3.7 * stored[hit.node.node_id]).tolist()
    memory_client.close()
    ranked = rerank(door(transform), hits)
    keys, scores = ranking_by_hand(transform, stored, ids(hits))
    assert ids(ranked) == keys
    np.testing.assert_allclose(scores_of(ranked), scores, atol=1e-6)


@pytest.mark.parametrize(("make", "name"), [(named_store, "text-dense"), (hybrid_store, "text-dense")])
def test_named_and_hybrid_collections(memory_client, make, name):
    index = index_over(make(memory_client))
    transform = fitted(memory_client, vector_name=name)
    mode = {"vector_store_query_mode": "hybrid", "sparse_top_k": 40} if make is hybrid_store else {}
    hits = plain_of(index, **mode)
    ranked = rerank(door(transform, index), hits)
    keys, scores = ranking_by_hand(transform, vectors_in(memory_client, vector_name=name), ids(hits))
    assert len(hits) >= 40 and ids(ranked) == keys
    np.testing.assert_allclose(scores_of(ranked), scores, atol=1e-6)


def test_simple_vector_store(index, transform):
    simple = simple_index()
    hits = plain_of(simple)
    same(rerank(door(transform, simple), hits), rerank(door(transform, index), hits))


def test_two_layers_can_rank(index, memory_client):
    rng = np.random.default_rng(0)
    shapes = ((32, 64), (16, 32))
    layers = tuple((rng.normal(size=s).astype(np.float32), rng.normal(size=s[0]).astype(np.float32)) for s in shapes)
    two = GSTransform(layers, None, TransformInfo(method="contrastive-mlp"))
    hits, stored = plain_of(index), vectors_in(memory_client)
    ranked = rerank(door(two, index), hits)
    query = two.transform_query(np.array(WordEmbedding().get_query_embedding(QUERY)))
    z = two.transform(np.array([stored[key] for key in ids(ranked)]))
    np.testing.assert_allclose(scores_of(ranked), z @ query / np.linalg.norm(z, axis=1), atol=1e-5)
    assert scores_of(ranked) == sorted(scores_of(ranked), reverse=True)


def test_a_hit_twice_is_ranked_twice(index, transform):
    hits = plain_of(index, similarity_top_k=5)
    ranked = rerank(door(transform, index), [*hits, *hits])
    assert ids(ranked)[::2] == ids(ranked)[1::2] == ids(rerank(door(transform, index), hits))
    np.testing.assert_allclose(scores_of(ranked)[::2], scores_of(ranked)[1::2], atol=1e-6)


def unequal(weight, bias, normalized=True):
    return GSTransform(
        ((np.array(weight, np.float32), np.array(bias, np.float32)),), None, TransformInfo(normalized=normalized)
    )


def test_f12_hits_that_map_to_zero_score_zero():
    onto_the_first = unequal([[1.0, 0.0], [0.0, 0.0]], [0.0, 0.0])
    hits = carried([[-1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    ranked = door(onto_the_first).postprocess_nodes(hits, QueryBundle(QUERY, embedding=[1.0, 0.0]))
    assert ids(ranked) == ["2", "1", "3", "0"] and scores_of(ranked) == [1.0, 0.0, 0.0, -1.0]
    with pytest.raises(ConfigurationError, match="maps it to zero"):
        door(onto_the_first).postprocess_nodes(hits, QueryBundle(QUERY, embedding=[0.0, 1.0]))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e15, 1e25])
@pytest.mark.parametrize("normalized", [True, False])
def test_f11_the_length_of_stored_vectors_does_not_upset_the_cosine(size, normalized):
    same_map = unequal(np.eye(2), [0.0, 0.0], normalized)
    hits = carried(size * np.array([[-3.0, 4.0], [3.0, 4.0], [4.0, 3.0]]))
    ranked = door(same_map).postprocess_nodes(hits, QueryBundle(QUERY, embedding=[1.0, 0.0]))
    assert ids(ranked) == ["2", "1", "0"]
    np.testing.assert_allclose(scores_of(ranked), [0.8, 0.6, -0.6], atol=1e-6)


# --- Hits without vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
async def test_f10_f26_hits_without_sound_vectors_go_last(wire_index, fake_qdrant, wire_transform, value):
    hits = await asyncio.to_thread(plain_of, wire_index)
    victims = [ids(hits)[row] for row in (0, 1, 13)]
    for victim in victims:
        if value is None:
            fake_qdrant.local.delete("shop", [victim])
        else:
            poison(fake_qdrant.local, victim, value)
    rest = [key for key in ids(hits) if key not in victims]
    keys, _ = ranking_by_hand(wire_transform, vectors_in(fake_qdrant.local), rest)
    reranker = door(wire_transform, wire_index)
    for way in ("sync", "async"):
        with recorded() as said, events(GSTransformEvent) as seen:
            ranked = rerank(reranker, hits) if way == "sync" else await arerank(reranker, hits)
        assert ids(ranked) == [*keys, *victims]
        assert scores_of(ranked)[-3:] == [None] * 3 and None not in scores_of(ranked)[:-3]
        assert len(said) == 1 and "3 of 40" in said[0] and victims[0] in said[0]
        assert len(seen) == 1 and seen[0].missing == victims
        assert seen[0].instruction == "What is the mood?" and seen[0].ms > 0.0
    with pytest.warns(InstructWarning):
        same(rerank(door(wire_transform, wire_index, top_n=39), hits), ranked[:39])


def test_an_event_tells_how_many_were_scored(index, memory_client, transform):
    hits = plain_of(index)
    with events(GSTransformEvent) as seen:
        rerank(door(transform, index), hits)
    assert (seen[0].nodes, seen[0].missing) == (40, [])
    memory_client.delete("shop", ids(hits)[:3])
    with events(GSTransformEvent) as seen, pytest.warns(InstructWarning):
        rerank(door(transform, index), hits)
    assert seen[0].nodes == 37 and len(seen[0].missing) == 3  # documented: hits scored


def test_missing_vectors_can_be_encoded_again(index, memory_client, transform):
    hits = plain_of(index)
    whole = rerank(door(transform, index), hits)
    memory_client.delete("shop", ids(hits)[:5])
    with recorded() as said:
        same(rerank(door(transform, index, encode_missing=True), hits), whole)
        same(rerank(door(transform, encode_missing=True), hits), whole)
    assert not said


async def test_nothing_to_be_had_leaves_the_hits_as_they_are(index, memory_client, transform):
    hits = plain_of(index)
    before = copy.deepcopy(hits)
    memory_client.delete("shop", ids(hits))
    for reranker in (door(transform, index), door(transform), door(transform, vector_store=SimpleVectorStore())):
        with recorded() as said:
            same(rerank(reranker, hits), before)
        assert len(said) == 1 and "MissingVectorsError" in said[0]
        reranker.top_n = 3
        with pytest.warns(InstructWarning) as caught:
            same(await arerank(reranker, hits), before[:3])
        assert len(caught) == 1


async def test_nothing_to_be_had_is_an_error_where_asked(transform, index):
    hits = plain_of(index)
    reranker = door(transform, on_error="raise")
    with pytest.raises(MissingVectorsError, match=r"vector_store=.* or allow encode_missing=True") as caught:
        rerank(reranker, hits)
    assert list(caught.value.node_ids) == ids(hits)
    with pytest.raises(MissingVectorsError):
        await arerank(reranker, hits)


@pytest.mark.parametrize("survived", [0, 1])
async def test_f20_qdrant_dies_before_the_vectors_come(wire_index, fake_qdrant, wire_transform, survived):
    hits = await asyncio.to_thread(plain_of, wire_index)
    for way in ("sync", "async"):
        for on_error in ("plain", "raise"):
            reranker = door(wire_transform, wire_index, on_error=on_error)
            fake_qdrant.fail_after = len(fake_qdrant.log) + survived
            if on_error == "raise":
                with pytest.raises(Exception, match="500") as caught:
                    _ = rerank(reranker, hits) if way == "sync" else await arerank(reranker, hits)
                assert type(caught.value).__name__ == "UnexpectedResponse"
            else:
                with recorded() as said:
                    ranked = rerank(reranker, hits) if way == "sync" else await arerank(reranker, hits)
                same(ranked, hits)
                assert len(said) == 1 and "UnexpectedResponse" in said[0] and "disk" not in said[0]
            fake_qdrant.fail_after = None
            same(rerank(reranker, hits), rerank(door(wire_transform, wire_index), hits))


async def test_f21_a_collection_that_is_gone(index, memory_client, transform):
    hits = plain_of(index)
    memory_client.delete_collection("shop")
    with recorded() as said:
        same(rerank(door(transform, index), hits), hits)
    assert len(said) == 1


async def test_f30_async_without_an_async_client_says_what_to_type(index, transform):
    hits = plain_of(index)
    with pytest.warns(InstructWarning, match="AsyncQdrantClient") as caught:
        same(await arerank(door(transform, index), hits), hits)
    assert len(caught) == 1
    with pytest.raises(ConfigurationError, match="AsyncQdrantClient"):
        await arerank(door(transform, index, on_error="raise"), hits)
    assert rerank(door(transform, index), hits)  # inside a running loop


# --- The query ------------------------------------------------------------------------------------------------------


def test_a_fitting_embedding_of_the_bundle_is_used(index, memory_client, transform):
    hits, vector = plain_of(index), WordEmbedding().get_query_embedding("happy watch")
    bundle = QueryBundle(QUERY, embedding=vector)
    ranked = door(transform, index, embed_model=NoEmbedding()).postprocess_nodes(hits, bundle)
    stored = vectors_in(memory_client)
    np.testing.assert_allclose(
        scores_of(ranked), by_hand(transform, vector, [stored[key] for key in ids(ranked)]), atol=1e-6
    )


@pytest.mark.parametrize("embedding", [None, [0.1] * 3, [0.1] * 65, []])
async def test_any_other_is_left_alone(wire_index, wire_transform, embedding):
    hits = await asyncio.to_thread(plain_of, wire_index)
    model = WordEmbedding()
    reranker = door(wire_transform, wire_index, embed_model=model)
    bundle = QueryBundle(QUERY, embedding=embedding)
    same(reranker.postprocess_nodes(hits, bundle), rerank(door(wire_transform, wire_index), hits))
    same(await reranker.apostprocess_nodes(hits, bundle), rerank(door(wire_transform, wire_index), hits))
    assert model.calls == 2 and bundle.embedding == embedding


def test_the_embedding_model_of_the_settings_is_asked_last(index, transform, monkeypatch):
    hits, model = plain_of(index), WordEmbedding()
    monkeypatch.setattr(Settings, "_embed_model", model)
    reranker = GSTransformPostprocessor(transform, vector_store=index.vector_store)
    same(rerank(reranker, hits), rerank(door(transform, index), hits))
    assert model.calls == 1


async def test_no_query_and_empty_queries(index, memory_client, transform):
    hits, reranker = plain_of(index), door(transform, index, embed_model=NoEmbedding())
    memory_client.close()
    for query in ({}, {"query_str": ""}, {"query_str": " \n\t"}, {"query_bundle": QueryBundle(" ")}):
        with pytest.raises(ConfigurationError, match="query: expected"):
            reranker.postprocess_nodes(hits, **query)
        with pytest.raises(ConfigurationError, match="query: expected"):
            await reranker.apostprocess_nodes(hits, **query)


@pytest.mark.parametrize("vector", [[0.0] * 64, [math.nan] * 64, [math.inf] + [0.0] * 63])
def test_f9_unsound_query_vectors(index, transform, vector):
    hits = plain_of(index)
    with pytest.raises(ConfigurationError, match="query embedding"):
        door(transform, index).postprocess_nodes(hits, QueryBundle(QUERY, embedding=vector))


# --- What goes over the wire ----------------------------------------------------------------------------------------


async def test_no_hits_cost_nothing(wire_index, fake_qdrant, wire_transform):
    reranker = door(wire_transform, wire_index, embed_model=NoEmbedding())
    before = len(fake_qdrant.log)
    with events(ReRankStartEvent, GSTransformEvent) as seen:
        assert rerank(reranker, []) == [] == await arerank(reranker, []) == reranker.postprocess_nodes([])
    assert len(fake_qdrant.log) == before and not seen


async def test_f27_one_call_fetches_all_vectors(wire_index, fake_qdrant, wire_transform):
    hits = await asyncio.to_thread(plain_of, wire_index)
    reranker, start = door(wire_transform, wire_index), len(fake_qdrant.log)
    one = rerank(reranker, hits)
    assert posts(fake_qdrant, start) == [""] and len(fake_qdrant.log) - start <= 2
    start = len(fake_qdrant.log)
    same(await arerank(reranker, hits), one)
    same(rerank(reranker, hits), one)
    assert [(verb, path) for verb, path, _ in fake_qdrant.log[start:]] == [("POST", "/collections/shop/points")] * 2
    assert fake_qdrant.log[-1][2]["with_payload"] is False and len(fake_qdrant.log[-1][2]["ids"]) == 40


@pytest.fixture
async def async_only(wire_index, fake_qdrant):
    """A store that has no synchronous client at all."""
    client = AsyncQdrantClient(url=fake_qdrant.url, check_compatibility=False, verify=False)
    yield VectorStoreIndex.from_vector_store(
        QdrantVectorStore(collection_name="shop", aclient=client), embed_model=WordEmbedding()
    )
    await client.close()


async def test_async_makes_only_async_requests(async_only, wire_index, wire_transform):
    hits = await async_only.as_retriever(similarity_top_k=40).aretrieve(QUERY)
    reranker = door(wire_transform, async_only)
    same(await arerank(reranker, hits), rerank(door(wire_transform, wire_index), hits))
    with pytest.warns(InstructWarning, match="only an async one"):
        same(rerank(reranker, hits), hits)


async def test_async_before_the_store_has_seen_its_collection(async_only, wire_index, wire_transform):
    hits = await asyncio.to_thread(plain_of, wire_index)
    same(await arerank(door(wire_transform, async_only), hits), rerank(door(wire_transform, wire_index), hits))


class SlowEmbedding(WordEmbedding):
    model_name: str = "words"

    async def _aget_query_embedding(self, query):
        await asyncio.sleep(0.4)
        return self._vector(query)


async def test_the_event_loop_is_never_blocked(wire_index, fake_qdrant, wire_transform):
    hits = await asyncio.to_thread(plain_of, wire_index)
    reranker = door(wire_transform, wire_index, embed_model=SlowEmbedding())
    fake_qdrant.lock.acquire()
    threading.Timer(1.5, fake_qdrant.lock.release).start()
    task = asyncio.ensure_future(arerank(reranker, hits))
    longest, last = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert longest < 1.2 and len(await task) == 40


@pytest.mark.parametrize("where", ["embedding", "store"])
async def test_f29_cancellation_comes_through(wire_index, fake_qdrant, wire_transform, where):
    hits = await asyncio.to_thread(plain_of, wire_index)
    slow = door(wire_transform, wire_index, embed_model=SlowEmbedding() if where == "embedding" else WordEmbedding())
    await arerank(slow, hits)  # the store has been described
    if where == "store":
        fake_qdrant.lock.acquire()
    start = len(fake_qdrant.log)
    try:
        with recorded() as said, pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(arerank(slow, hits), 0.1)
    finally:
        if where == "store":
            fake_qdrant.lock.release()
    await asyncio.sleep(0.1)
    assert not said and len(asyncio.all_tasks()) == 1
    assert len(fake_qdrant.log) - start == (where == "store")


async def test_f28_many_at_once_give_the_serial_answers(wire_index, wire_transform):
    from concurrent.futures import ThreadPoolExecutor

    hits = await asyncio.to_thread(plain_of, wire_index)
    reranker = door(wire_transform, wire_index)
    queries = [f"order {thing} {mood}" for thing in ("printer", "watch") for mood in ("furious", "happy")] * 8
    serial = [rerank(reranker, hits, query) for query in queries[:4]] * 8
    fresh = door(wire_transform, wire_index)
    with ThreadPoolExecutor(16) as pool:
        for left, right in zip(serial, pool.map(lambda query: rerank(fresh, hits, query), queries), strict=True):
            same(left, right)
    fresh = door(wire_transform, wire_index)
    for left, right in zip(serial, await asyncio.gather(*(arerank(fresh, hits, q) for q in queries)), strict=True):
        same(left, right)


# --- Transforms that do not belong here -----------------------------------------------------------------------------


def small(size=3, **settings):
    rng = np.random.default_rng(0)
    return GSTransform.from_labels(rng.normal(size=(20, size)), ["a", "b"] * 10, **settings)


async def test_f13_a_transform_of_another_size(wire_index, fake_qdrant):
    hits = await asyncio.to_thread(plain_of, wire_index)
    reranker = door(small(), wire_index, embed_model=NoEmbedding())
    start = len(fake_qdrant.log)
    with pytest.raises(DimensionMismatchError, match="expects 3, collection 'shop' has 64"):
        rerank(reranker, hits)
    with pytest.raises(DimensionMismatchError, match="expects 3, collection 'shop' has 64"):
        await arerank(reranker, hits)
    assert not posts(fake_qdrant, start)


def test_f13_an_embedding_model_of_another_size(index, transform):
    hits = plain_of(index)
    with pytest.raises(DimensionMismatchError, match="expects 64, the query embedding has 32"):
        rerank(door(transform, index, embed_model=OtherWords(size=32)), hits)


def test_f13_carried_vectors_of_another_size(transform):
    with pytest.raises(DimensionMismatchError, match=r"64.*3"):
        rerank(door(transform), carried([[1.0, 2.0, 3.0]] * 2))


@pytest.mark.parametrize("distance", [models.Distance.EUCLID, models.Distance.DOT, models.Distance.MANHATTAN])
def test_f15_another_distance_than_recorded(memory_client, distance):
    index = index_over(store_of(memory_client, distance))
    hits = plain_of(index)
    for fit, found in (("Cosine", distance.value), (distance.value, None)):
        reranker = door(fitted(memory_client, distance=fit), index)
        if found is None:
            assert len(rerank(reranker, hits)) == 40
        else:
            with pytest.raises(IncompatibleStoreError, match=rf"Cosine.*'shop'.*{found}"):
                rerank(reranker, hits)


async def test_f15_raw_vectors_and_a_collection_of_unit_vectors(wire_index, fake_qdrant):
    hits = await asyncio.to_thread(plain_of, wire_index)
    reranker = door(fitted(fake_qdrant.local, normalize=False), wire_index, embed_model=NoEmbedding())
    with pytest.raises(IncompatibleStoreError, match=r"normalize=False.*'shop'.*Cosine"):
        rerank(reranker, hits)
    with pytest.raises(IncompatibleStoreError, match=r"normalize=False.*'shop'.*Cosine"):
        await arerank(reranker, hits)


def test_f15_raw_vectors_and_a_collection_that_keeps_them(memory_client):
    index = index_over(store_of(memory_client, models.Distance.DOT))
    raw = fitted(memory_client, normalize=False, distance="Dot")
    hits = plain_of(index)
    ranked = rerank(door(raw, index), hits)
    assert ids(ranked) == ranking_by_hand(raw, vectors_in(memory_client), ids(hits))[0]


def marked(client, **settings):
    return fitted(client, embed_model="words", fingerprint=fingerprint(WordEmbedding()), **settings)


async def test_f14_another_embedding_model(wire_index, fake_qdrant):
    hits = await asyncio.to_thread(plain_of, wire_index)
    transform, start = marked(fake_qdrant.local), len(fake_qdrant.log)
    reranker = door(transform, wire_index, embed_model=OtherWords())
    for _ in range(2):
        with pytest.raises(IncompatibleStoreError, match=r"'words'.*'other words'.*allow_other_model=True"):
            rerank(reranker, hits)
        with pytest.raises(IncompatibleStoreError, match=r"'words'.*'other words'"):
            await arerank(door(transform, wire_index, embed_model=OtherWords()), hits)
    assert not posts(fake_qdrant, start)
    with recorded() as said:
        same(rerank(door(transform, wire_index), hits), await arerank(door(transform, wire_index), hits))
    assert not said


async def test_f14_another_embedding_model_allowed(wire_index, fake_qdrant):
    hits = await asyncio.to_thread(plain_of, wire_index)
    for way in ("sync", "async"):
        reranker = door(marked(fake_qdrant.local), wire_index, embed_model=OtherWords(), allow_other_model=True)
        with recorded() as said:
            for _ in range(3):
                ranked = rerank(reranker, hits) if way == "sync" else await arerank(reranker, hits)
        assert len(said) == 1 and "'words'" in said[0] and "'other words'" in said[0]
        assert len(ranked) == 40


def test_f14_the_embedding_model_of_the_settings_is_checked_too(index, memory_client, monkeypatch):
    hits = plain_of(index)
    monkeypatch.setattr(Settings, "_embed_model", OtherWords())
    reranker = GSTransformPostprocessor(marked(memory_client), vector_store=index.vector_store)
    with pytest.raises(IncompatibleStoreError, match=r"'words'.*'other words'"):
        rerank(reranker, hits)


def test_the_model_is_probed_once(index, memory_client):
    hits, model = plain_of(index), WordEmbedding()
    reranker = door(marked(memory_client), index, embed_model=model)
    for _ in range(3):
        rerank(reranker, hits)
    assert model.calls == 3 + 3


# --- Settings, copies, folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"top_n": 0}, "top_n: expected 1"),
        ({"top_n": -3}, "top_n: expected 1"),
        ({"on_error": "ignore"}, "on_error"),
        ({"transform_path": "x"}, "transform"),
        ({"transform": None}, "transform: expected"),
        ({"transform": 7}, "transform: expected a GSTransform .* found int"),
        ({"transform": {}}, "empty"),
        ({"transform": {"a": 7}}, "found int"),
    ],
)
def test_wrong_settings_are_named(transform, settings, words):
    with pytest.raises(ConfigurationError, match=words):
        GSTransformPostprocessor(**{"transform": transform, **settings})


def test_unknown_keywords_are_refused(transform, tmp_path):
    with pytest.raises((TypeError, ValueError), match="topn"):
        GSTransformPostprocessor(transform, topn=3)
    transform.save_pretrained(tmp_path)
    saved = GSTransformPostprocessor(tmp_path).to_dict()
    with pytest.raises((TypeError, ValueError), match="topn"):
        GSTransformPostprocessor.from_dict({**saved, "topn": 3})
    with pytest.raises(TransformFileError):
        GSTransformPostprocessor(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_f39_to_dict_and_back(index, transform, tmp_path, kind):
    hits = plain_of(index)
    transform.save_pretrained(tmp_path)
    reranker = door(kind(tmp_path), index, top_n=9, keep_retrieval_score=True, on_error="raise", encode_missing=True)
    same(rerank(reranker, hits), rerank(door(transform, index, top_n=9), hits))
    saved = json.loads(json.dumps(reranker.to_dict()))
    assert saved["class_name"] == "GSTransformPostprocessor" and saved["transform_path"] == str(tmp_path)
    back = GSTransformPostprocessor.from_dict(saved, vector_store=index.vector_store, embed_model=WordEmbedding())
    assert back.to_dict() == reranker.to_dict()
    same(rerank(back, hits), rerank(reranker, hits))


@pytest.mark.parametrize("mapping", [dict, MappingProxyType])
def test_f39_several_folders_to_dict_and_back(index, memory_client, transform, tmp_path, mapping):
    fits = {"mood": transform, "thing": fitted(memory_client, "thing")}
    for name, fit in fits.items():
        fit.save_pretrained(tmp_path / name)
    folders = mapping({name: tmp_path / name for name in fits})
    reranker = door(folders, index, choose=lambda query: "thing")
    saved = json.loads(json.dumps(reranker.to_dict()))
    assert saved["transform_path"] == {name: str(tmp_path / name) for name in fits}
    back = GSTransformPostprocessor.from_dict(
        saved, vector_store=index.vector_store, embed_model=WordEmbedding(), choose=lambda query: "thing"
    )
    hits = plain_of(index)
    same(rerank(back, hits), rerank(door(fits["thing"], index), hits))


def test_f39_a_transform_without_a_folder_says_so_on_the_way_back(transform):
    with pytest.raises(ConfigurationError, match="folder"):
        GSTransformPostprocessor.from_dict(GSTransformPostprocessor(transform).to_dict())


COPIES = {
    "pickle": lambda door: pickle.loads(pickle.dumps(door)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "model_copy": lambda door: door.model_copy(deep=True),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("from_folder", [False, True])
@pytest.mark.parametrize("where", ["carried", "simple", "qdrant"])
def test_f39_copies_rank_alike(index, memory_client, transform, tmp_path, way, from_folder, where):
    hits = plain_of(index)
    if where == "carried":
        for hit, vector in zip(hits, [vectors_in(memory_client)[key] for key in ids(hits)], strict=True):
            hit.node.embedding = vector.tolist()
    if from_folder:
        transform.save_pretrained(tmp_path)
    over = {"carried": lambda: None, "simple": simple_index, "qdrant": lambda: index}[where]()
    reranker = door(tmp_path if from_folder else transform, over, top_n=11)
    first = rerank(reranker, hits)
    with recorded() as said:
        same(rerank(COPIES[way](reranker), hits), first)
    assert not said


# --- Several transforms ---------------------------------------------------------------------------------------------


def test_one_of_several_is_chosen_per_query(index, memory_client, transform):
    things = fitted(memory_client, "thing")
    asked = []

    def choose(query):
        asked.append(query.query_str)
        return "thing" if "router" in query.query_str else "mood"

    reranker = door({"mood": transform, "thing": things}, index, choose=choose)
    hits = plain_of(index)
    for query, alone in ((QUERY, transform), ("router furious", things), (QUERY, transform)):
        same(rerank(reranker, hits, query), rerank(door(alone, index), hits, query))
    assert asked == [QUERY, "router furious", QUERY]  # choosing may cost a model call


def test_choices_that_cannot_be(index, transform):
    hits = plain_of(index)
    with pytest.raises(ConfigurationError, match=r"choose: .*'a', 'b'"):
        rerank(door({"a": transform, "b": transform}, index), hits)
    with pytest.raises(ConfigurationError, match=r"expected one of 'a', 'b', found 'c'"):
        rerank(door({"a": transform, "b": transform}, index, choose=lambda query: "c"), hits)
    assert len(rerank(door({"a": transform}, index), hits)) == 40


def test_each_of_several_is_checked(index, transform):
    hits = plain_of(index)
    reranker = door({"a": transform, "b": small()}, index, choose=lambda query: query.query_str[0])
    assert len(rerank(reranker, hits, "a furious one")) == 40
    with pytest.raises(DimensionMismatchError, match="'shop'"):
        rerank(reranker, hits, "b furious one")


# --- In an application ----------------------------------------------------------------------------------------------


async def test_events_of_a_reranker(wire_index, fake_qdrant):
    hits = await asyncio.to_thread(plain_of, wire_index)
    reranker = door(fitted(fake_qdrant.local, embed_model="words"), wire_index, top_n=5)
    for way in ("sync", "async"):
        with events(ReRankStartEvent, ReRankEndEvent, GSTransformEvent) as seen:
            ranked = rerank(reranker, hits) if way == "sync" else await arerank(reranker, hits)
        start, ours, end = seen
        assert isinstance(start, ReRankStartEvent) and start.nodes == hits
        assert (start.query.query_str, start.top_n, start.model_name) == (QUERY, 5, "words")
        assert isinstance(ours, GSTransformEvent) and ours.nodes == 40
        assert isinstance(end, ReRankEndEvent) and end.nodes == ranked
        assert "order" not in ours.model_dump_json()


def test_callbacks_of_a_reranker(index, transform):
    from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler

    debug = LlamaDebugHandler(print_trace_on_end=False)
    ranked = rerank(door(transform, index, callback_manager=CallbackManager([debug])), plain_of(index))
    ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert start.payload[EventPayload.QUERY_STR] == QUERY and end.payload[EventPayload.NODES] == ranked


@pytest.mark.parametrize("model", [None, WordEmbedding()])
async def test_in_a_query_engine(wire_index, wire_transform, model, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", WordEmbedding())
    reranker = GSTransformPostprocessor(
        wire_transform, vector_store=wire_index.vector_store, embed_model=model, top_n=4
    )
    hits = await asyncio.to_thread(plain_of, wire_index)
    expected = rerank(door(wire_transform, wire_index, top_n=4), hits)
    engine = wire_index.as_query_engine(llm=MockLLM(), similarity_top_k=40, node_postprocessors=[reranker])
    same((await asyncio.to_thread(engine.query, QUERY)).source_nodes, expected)
    same((await engine.aquery(QUERY)).source_nodes, expected)
    engine = RetrieverQueryEngine.from_args(
        wire_index.as_retriever(similarity_top_k=40), llm=MockLLM(), node_postprocessors=[reranker]
    )
    assert expected[0].node.get_content() in str(await engine.aquery(QUERY))


def test_f40_warnings_hold_no_text_and_no_key(index, memory_client, transform, caplog):
    class Leaky(WordEmbedding):
        def _get_text_embedding(self, text):
            raise RuntimeError(f"sk-secret could not embed {text}")

    secret = [NodeWithScore(node=TextNode(text="order refund secret", id_=node_id("secret")), score=0.1)]
    hits = plain_of(index) + secret
    with recorded() as said:
        rerank(door(transform, index), hits, "a secret question")
        rerank(door(transform), hits, "a secret question")
        rerank(door(transform, index, embed_model=Leaky(), encode_missing=True), hits, "a secret question")
    text = " ".join(said) + caplog.text
    assert (
        len(said) == 3
        and "secret" not in text
        and "order" not in text.replace("in the order", "").replace("the order they", "")
    )
