"""GSTransformRetriever on in-process stores and on the real client wire."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import WordEmbedding
from llama_index.core import Settings, StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, make_nodes, node_id
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
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
from llama_index_instruct.gstransform.retriever import GSTransformRetriever
from llama_index_instruct.gstransform.transform import GSTransform, TransformInfo


def posts(fake, since=0):
    return [path.split("/points")[-1] for verb, path, _ in fake.log[since:] if verb == "POST"]


# --- The search -----------------------------------------------------------------------------------------------------


def test_what_plain_search_misses_is_found(index, transform):
    plain = plain_of(index, similarity_top_k=30)
    found = GSTransformRetriever(index, transform=transform, similarity_top_k=30).retrieve(QUERY)
    assert angry(plain) < 25 and angry(found) == len(found) == 30
    assert set(ids(found)) - set(ids(plain))
    # A postprocessor has only what plain search brought.
    assert {"furious" in hit.node.text for hit in plain} == {True, False}


@pytest.mark.parametrize("facet", ["mood", "thing"])
@pytest.mark.parametrize(("top_k", "overfetch"), [(10, 9.0), (30, 3.0), (90, 1.0), (200, 1.0)])
def test_with_all_fetched_it_is_the_exact_ranking(index, memory_client, facet, top_k, overfetch):
    transform = fitted(memory_client, facet)
    stored = vectors_in(memory_client)
    keys, scores = ranking_by_hand(transform, stored, list(stored))
    retriever = GSTransformRetriever(index, transform=transform, similarity_top_k=top_k, overfetch=overfetch)
    found = retriever.retrieve(QUERY)
    assert ids(found) == keys[:top_k] and len(found) == min(top_k, 90)
    np.testing.assert_allclose(scores_of(found), scores[:top_k], atol=1e-6)
    assert all(type(hit) is NodeWithScore and type(hit.score) is float and hit.to_json() for hit in found)


def test_the_default_overfetch_finds_the_exact_first_hits(index, memory_client, transform):
    stored = vectors_in(memory_client)
    keys, _ = ranking_by_hand(transform, stored, list(stored))
    found = GSTransformRetriever(index, transform=transform, similarity_top_k=10).retrieve(QUERY)
    assert len(set(ids(found)) & set(keys[:10])) >= 9


def test_f36_filters_hold(index, memory_client, transform):
    filters = MetadataFilters(filters=[MetadataFilter(key="mood", value="happy")])
    inner = index.as_retriever(similarity_top_k=30, filters=filters)
    found = GSTransformRetriever(inner, transform=transform).retrieve(QUERY)
    assert len(found) == 30 and {hit.node.metadata["mood"] for hit in found} == {"happy"}
    stored = vectors_in(memory_client)
    happy = [node.node_id for node in make_nodes() if node.metadata["mood"] == "happy"]
    assert ids(found) == ranking_by_hand(transform, stored, happy)[0]


def test_the_retriever_inside_is_not_changed(index, transform):
    inner = index.as_retriever(similarity_top_k=4)
    before = inner.retrieve(QUERY)
    for top_k in (None, 10):
        retriever = GSTransformRetriever(inner, transform=transform, similarity_top_k=top_k, overfetch=5.0)
        assert len(retriever.retrieve(QUERY)) == (top_k or 4)
        assert inner.similarity_top_k == 4
    same(inner.retrieve(QUERY), before)


@pytest.mark.parametrize("given", [None, "router happy"])
async def test_the_callers_bundle_is_never_written_to(wire_index, wire_transform, given):
    embedding = WordEmbedding().get_query_embedding(given) if given else None
    bundle = QueryBundle(QUERY, embedding=copy.copy(embedding), custom_embedding_strs=[QUERY])
    before = copy.deepcopy(bundle)
    retriever = GSTransformRetriever(wire_index, transform=wire_transform)
    retriever.retrieve(bundle)
    await retriever.aretrieve(bundle)
    assert bundle == before


def test_the_bundles_embedding_is_the_query(index, memory_client, transform):
    vector, stored = WordEmbedding().get_query_embedding("happy watch"), vectors_in(memory_client)
    retriever = GSTransformRetriever(index, transform=transform, similarity_top_k=20, embed_model=NoEmbedding())
    for embedding in (vector, np.array(vector)):
        found = retriever.retrieve(QueryBundle(QUERY, embedding=embedding))
        by = by_hand(transform, vector, [stored[key] for key in ids(found)])
        np.testing.assert_allclose(scores_of(found), by, atol=1e-6)
    assert sum("happy" in hit.node.text for hit in found) == 20


def test_an_embedding_of_another_size_is_not(index, transform):
    retriever = GSTransformRetriever(index, transform=transform)
    same(retriever.retrieve(QueryBundle(QUERY, embedding=[0.5] * 8)), retriever.retrieve(QUERY))


def test_several_texts_of_a_bundle_make_one_query(index, memory_client, transform):
    texts, stored = ["printer furious", "watch furious"], vectors_in(memory_client)
    found = GSTransformRetriever(index, transform=transform, similarity_top_k=5).retrieve(
        QueryBundle(QUERY, custom_embedding_strs=texts)
    )
    mean = np.mean([WordEmbedding().get_query_embedding(text) for text in texts], axis=0)
    by = by_hand(transform, mean, [stored[key] for key in ids(found)])
    np.testing.assert_allclose(scores_of(found), by, atol=1e-6)


def test_the_score_of_the_store_is_kept_where_asked(index, transform, memory_client):
    vector = transform.search_vector(np.array(WordEmbedding().get_query_embedding(QUERY)))
    stored = vectors_in(memory_client)
    found = GSTransformRetriever(index, transform=transform, keep_retrieval_score=True).retrieve(QUERY)
    for hit in found:
        expected = float(stored[hit.node.node_id] @ vector)
        assert hit.node.metadata["retrieval_score"] == pytest.approx(expected, abs=1e-5)


async def test_one_search_and_one_fetch_go_over_the_wire(wire_index, fake_qdrant, wire_transform):
    retriever = GSTransformRetriever(wire_index, transform=wire_transform, similarity_top_k=10)
    start = len(fake_qdrant.log)
    one = retriever.retrieve(QUERY)
    assert posts(fake_qdrant, start) == ["/query", ""]
    assert fake_qdrant.log[-1][2]["with_payload"] is False and len(fake_qdrant.log[-1][2]["ids"]) == 30
    start = len(fake_qdrant.log)
    same(await retriever.aretrieve(QUERY), one)
    assert posts(fake_qdrant, start) == ["/query", ""]
    start = len(fake_qdrant.log)
    same(retriever.retrieve(QUERY), one)
    assert len(fake_qdrant.log) - start == 2


async def test_async_makes_only_async_requests(fake_qdrant, wire_index, wire_transform):
    aclient = AsyncQdrantClient(url=fake_qdrant.url, check_compatibility=False, verify=False)
    alone = VectorStoreIndex.from_vector_store(
        QdrantVectorStore(collection_name="shop", aclient=aclient), embed_model=WordEmbedding()
    )
    found = await GSTransformRetriever(alone, transform=wire_transform, similarity_top_k=12).aretrieve(QUERY)
    same(found, GSTransformRetriever(wire_index, transform=wire_transform, similarity_top_k=12).retrieve(QUERY))
    await aclient.close()


# --- Stores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [named_store, hybrid_store])
def test_named_and_hybrid_collections(memory_client, make):
    index = index_over(make(memory_client))
    transform = fitted(memory_client, vector_name="text-dense")
    stored = vectors_in(memory_client, vector_name="text-dense")
    mode = {"vector_store_query_mode": "hybrid", "sparse_top_k": 90} if make is hybrid_store else {}
    inner = index.as_retriever(similarity_top_k=10, **mode)
    found = GSTransformRetriever(inner, transform=transform, overfetch=9.0).retrieve(QUERY)
    keys, scores = ranking_by_hand(transform, stored, list(stored))
    assert ids(found) == keys[:10]
    np.testing.assert_allclose(scores_of(found), scores[:10], atol=1e-6)


def test_simple_vector_store(index, transform):
    found = GSTransformRetriever(simple_index(), transform=transform, similarity_top_k=30).retrieve(QUERY)
    same(found, GSTransformRetriever(index, transform=transform, similarity_top_k=30).retrieve(QUERY))


def test_any_retriever_that_honours_an_embedding(index, transform, monkeypatch):
    inner = index.as_retriever(similarity_top_k=30)

    class Wrapped(BaseRetriever):
        def _retrieve(self, query_bundle):
            return inner.retrieve(query_bundle)

    known = {"vector_store": index.vector_store, "embed_model": WordEmbedding()}
    whole = GSTransformRetriever(Wrapped(), transform=transform, **known).retrieve(QUERY)
    assert len(whole) == 30
    cut = GSTransformRetriever(Wrapped(), transform=transform, similarity_top_k=10, **known)
    same(cut.retrieve(QUERY), whole[:10])
    again = GSTransformRetriever(
        Wrapped(), transform=transform, embed_model=WordEmbedding(), encode_missing=True
    ).retrieve(QUERY)
    same(again, whole)
    monkeypatch.setattr(Settings, "_embed_model", WordEmbedding())
    retriever = GSTransformRetriever(Wrapped(), transform=transform, similarity_top_k=5)
    with pytest.warns(InstructWarning, match="vector_store") as caught:
        assert len(retriever.retrieve(QUERY)) == 5
    assert len(caught) == 1


@pytest.mark.parametrize("length", [0.1, 10.0])
@pytest.mark.parametrize("distance", [models.Distance.DOT, models.Distance.EUCLID, models.Distance.MANHATTAN])
def test_f15_stores_that_keep_lengths_are_searched_rightly_or_refused(memory_client, distance, length):
    """The search vector ranks by dot product; nearest by Euclid is another search, whose misses nobody would notice."""

    class Lengths(WordEmbedding):
        def _get_text_embedding(self, text):
            return (np.array(self._vector(text)) * (length if "furious" in text else 1.0)).tolist()

    index = index_over(store_of(memory_client, distance), Lengths())
    transform = fitted(memory_client, distance=distance.value)
    stored = vectors_in(memory_client)
    retriever = GSTransformRetriever(index, transform=transform, similarity_top_k=10)
    try:
        found = retriever.retrieve(QUERY)
    except IncompatibleStoreError as error:
        assert distance.value in str(error)
    else:
        keys, _ = ranking_by_hand(transform, stored, list(stored))
        assert len(set(ids(found)) & set(keys[:10])) >= 8


def test_empty_and_missing_collections(memory_client, transform):
    store = store_of_name(memory_client, "empty", create=True)
    index = VectorStoreIndex.from_vector_store(store, embed_model=WordEmbedding())
    with recorded() as said:
        assert GSTransformRetriever(index, transform=transform).retrieve(QUERY) == []
    assert not said
    index = VectorStoreIndex.from_vector_store(store_of_name(memory_client, "gone"), embed_model=WordEmbedding())
    with pytest.raises(ValueError, match="gone") as plain:
        index.as_retriever().retrieve(QUERY)
    with pytest.raises(type(plain.value), match="gone") as ours:
        GSTransformRetriever(index, transform=transform).retrieve(QUERY)
    assert type(ours.value) is type(plain.value) and str(ours.value) == str(plain.value)


def store_of_name(client, name, create=False):
    if create:
        client.create_collection(name, vectors_config=models.VectorParams(size=64, distance=models.Distance.COSINE))
    return QdrantVectorStore(collection_name=name, client=client)


async def test_f21_a_collection_that_is_gone_on_the_wire(wire_index, fake_qdrant, wire_transform):
    retriever = GSTransformRetriever(wire_index, transform=wire_transform)
    retriever.retrieve(QUERY)
    fake_qdrant.local.delete_collection("shop")
    with pytest.raises(UnexpectedResponse, match="404"):
        retriever.retrieve(QUERY)
    with pytest.raises(UnexpectedResponse, match="404"):
        await retriever.aretrieve(QUERY)


# --- Settings -------------------------------------------------------------------------------------------------------


def two_layers():
    layer = (np.eye(64, dtype=np.float32), np.zeros(64, np.float32))
    return GSTransform((layer, layer), None, TransformInfo(method="contrastive-mlp"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"similarity_top_k": 0}, "similarity_top_k: expected 1"),
        ({"similarity_top_k": -2}, "similarity_top_k: expected 1"),
        ({"overfetch": 0.99}, "overfetch: expected 1"),
        ({"overfetch": -1.0}, "overfetch: expected 1"),
        ({"overfetch": math.nan}, "overfetch: expected 1"),
        ({"overfetch": math.inf}, "overfetch: expected"),
        ({"on_error": "ignore"}, "on_error: expected"),
        ({"transform": two_layers()}, "contrastive-mlp"),
        ({"transform": {"a": two_layers()}}, "'a'.*contrastive-mlp"),
        ({"transform": {}}, "empty"),
        ({"transform": 7}, "found int"),
        ({"transform": None}, "found NoneType"),
    ],
)
def test_wrong_settings_are_named(index, transform, settings, words):
    with pytest.raises(ConfigurationError, match=words):
        GSTransformRetriever(index, **{"transform": transform, **settings})


def test_unknown_keywords_and_folders(index, transform, tmp_path):
    with pytest.raises(TypeError, match="top_n"):
        GSTransformRetriever(index, transform=transform, top_n=3)
    with pytest.raises(TransformFileError, match="nowhere"):
        GSTransformRetriever(index, transform=tmp_path / "nowhere")
    transform.save_pretrained(tmp_path)
    for folder in (tmp_path, str(tmp_path)):
        same(
            GSTransformRetriever(index, transform=folder).retrieve(QUERY),
            GSTransformRetriever(index, transform=transform).retrieve(QUERY),
        )


def test_retriever_and_index_by_any_name(index, transform):
    for arguments in ({"index": index}, {"retriever": index}, {"retriever": index.as_retriever()}):
        assert len(GSTransformRetriever(transform=transform, **arguments).retrieve(QUERY)) == 2
    for arguments in ({}, {"index": index, "retriever": index}):
        with pytest.raises(ConfigurationError, match="retriever or an index"):
            GSTransformRetriever(transform=transform, **arguments)
    with pytest.raises(ConfigurationError, match="similarity_top_k"):
        GSTransformRetriever(index.as_retriever(similarity_top_k=0), transform=transform)


@pytest.mark.parametrize("mode", ["sparse", "text_search", "mmr"])
def test_f36_modes_without_one_dense_vector_are_refused(index, transform, mode):
    with pytest.raises(ConfigurationError, match=f"query mode '{mode}'"):
        GSTransformRetriever(
            index.as_retriever(vector_store_query_mode=VectorStoreQueryMode(mode)), transform=transform
        )


@pytest.mark.parametrize("query", ["", " \n\t", QueryBundle(" ")])
async def test_empty_queries(index, memory_client, transform, query):
    retriever = GSTransformRetriever(index, transform=transform, embed_model=NoEmbedding())
    memory_client.close()
    with pytest.raises(ConfigurationError, match="some text"):
        retriever.retrieve(query)
    with pytest.raises(ConfigurationError, match="some text"):
        await retriever.aretrieve(query)


@pytest.mark.parametrize("vector", [[0.0] * 64, [math.nan] * 64, [math.inf] + [0.0] * 63])
async def test_f9_f12_unsound_query_vectors(wire_index, fake_qdrant, wire_transform, vector):
    retriever, start = GSTransformRetriever(wire_index, transform=wire_transform), len(fake_qdrant.log)
    with pytest.raises(ConfigurationError, match="query embedding"):
        retriever.retrieve(QueryBundle(QUERY, embedding=vector))
    with pytest.raises(ConfigurationError, match="query embedding"):
        await retriever.aretrieve(QueryBundle(QUERY, embedding=vector))
    assert not posts(fake_qdrant, start)


def test_the_number_of_hits_can_be_changed_later(index, transform):
    """As on LlamaIndex's own vector retriever."""
    retriever = GSTransformRetriever(index, transform=transform, similarity_top_k=2)
    retriever.similarity_top_k = 30
    same(
        retriever.retrieve(QUERY),
        GSTransformRetriever(index, transform=transform, similarity_top_k=30).retrieve(QUERY),
    )


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_f39_copies_search_alike(index, transform, way):
    retriever = GSTransformRetriever(index, transform=transform, similarity_top_k=9)
    same(way(retriever).retrieve(QUERY), retriever.retrieve(QUERY))


# --- Several transforms ---------------------------------------------------------------------------------------------


async def test_one_of_several_is_chosen_per_query(wire_index, fake_qdrant, wire_transform):
    things, asked = fitted(fake_qdrant.local, "thing"), []

    def choose(query):
        asked.append(query.query_str)
        return "thing" if "watch" in query.query_str else "mood"

    both = {"mood": wire_transform, "thing": things}
    retriever = GSTransformRetriever(wire_index, transform=both, choose=choose, similarity_top_k=8)
    for query, alone in ((QUERY, wire_transform), ("watch furious", things)):
        expected = GSTransformRetriever(wire_index, transform=alone, similarity_top_k=8).retrieve(query)
        same(retriever.retrieve(query), expected)
        same(await retriever.aretrieve(query), expected)
    assert asked == [QUERY, QUERY, "watch furious", "watch furious"]
    mood, thing = retriever.using("mood"), retriever.using("thing")
    same(mood.retrieve("watch furious"), mood.using("mood").retrieve("watch furious"))
    same(thing.retrieve("watch furious"), retriever.retrieve("watch furious"))
    assert ids(mood.retrieve("watch furious")) != ids(thing.retrieve("watch furious"))
    assert angry(mood.retrieve("watch furious")) == 8 > angry(thing.retrieve("watch furious"))


def test_choices_that_cannot_be(index, transform):
    both = {"a": transform, "b": transform}
    retriever = GSTransformRetriever(index, transform=both)
    with pytest.raises(ConfigurationError, match=r"choose: .*'a', 'b'"):
        retriever.retrieve(QUERY)
    with pytest.raises(ConfigurationError, match=r"expected one of 'a', 'b', found 'c'"):
        retriever.using("c")
    with pytest.raises(ConfigurationError, match=r"expected one of 'a', 'b', found 'c'"):
        GSTransformRetriever(index, transform=both, choose=lambda query: "c").retrieve(QUERY)
    assert len(retriever.using("b").retrieve(QUERY)) == 2


# --- Transforms that do not belong here -----------------------------------------------------------------------------


def small(size=3, **settings):
    rng = np.random.default_rng(0)
    return GSTransform.from_labels(rng.normal(size=(20, size)), ["a", "b"] * 10, **settings)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda client: small(), DimensionMismatchError, "expects 3, collection 'shop' has 64"),
        (lambda client: fitted(client, normalize=False), IncompatibleStoreError, "normalize=False.*'shop'.*Cosine"),
        (lambda client: fitted(client, distance="Euclid"), IncompatibleStoreError, "Euclid.*'shop'.*Cosine"),
        (
            lambda client: fitted(client, embed_model="far", fingerprint=fingerprint(OtherWords())),
            IncompatibleStoreError,
            "'far'.*'words'.*allow_other_model=True",
        ),
    ],
    ids=["size", "raw", "distance", "model"],
)
async def test_f13_f14_f15_refused_before_any_search(wire_index, fake_qdrant, make, error, words):
    transform, start = make(fake_qdrant.local), len(fake_qdrant.log)
    for _ in range(2):
        retriever = GSTransformRetriever(wire_index, transform=transform)
        with pytest.raises(error, match=words):
            retriever.retrieve(QUERY)
        with pytest.raises(error, match=words):
            await retriever.aretrieve(QUERY)
    assert not posts(fake_qdrant, start)


def test_f13_an_embedding_model_of_another_size(index, transform):
    retriever = GSTransformRetriever(index, transform=transform, embed_model=OtherWords(size=32))
    with pytest.raises(DimensionMismatchError, match="expects 64, the query embedding has 32"):
        retriever.retrieve(QUERY)


def test_f14_another_embedding_model_allowed(index, memory_client):
    other = fitted(memory_client, embed_model="far", fingerprint=fingerprint(OtherWords()))
    retriever = GSTransformRetriever(index, transform=other, allow_other_model=True)
    with recorded() as said:
        for _ in range(3):
            assert len(retriever.retrieve(QUERY)) == 2
    assert len(said) == 1 and "'far'" in said[0] and "'words'" in said[0]


# --- Trouble --------------------------------------------------------------------------------------------------------


async def test_f19_qdrant_down_at_the_first_search(wire_index, fake_qdrant, wire_transform):
    retriever = GSTransformRetriever(wire_index, transform=wire_transform)
    for _ in range(2):
        fake_qdrant.fail_after = 0
        with pytest.raises(UnexpectedResponse), recorded() as said:
            retriever.retrieve(QUERY)
        with pytest.raises(UnexpectedResponse), recorded() as said:
            await retriever.aretrieve(QUERY)
        assert not said
        fake_qdrant.fail_after = None
        assert len(retriever.retrieve(QUERY)) == 2


async def test_f20_qdrant_dies_before_the_vectors_come(wire_index, fake_qdrant, wire_transform):
    settings = {"transform": wire_transform, "similarity_top_k": 6}
    vector = wire_transform.search_vector(np.array(WordEmbedding().get_query_embedding(QUERY)))
    searched = await asyncio.to_thread(
        wire_index.as_retriever(similarity_top_k=18).retrieve, QueryBundle(QUERY, embedding=vector.tolist())
    )
    for way in ("sync", "async"):
        for on_error in ("plain", "raise"):
            retriever = GSTransformRetriever(wire_index, on_error=on_error, **settings)
            _ = retriever.retrieve(QUERY) if way == "sync" else await retriever.aretrieve(QUERY)
            fake_qdrant.fail_after = len(fake_qdrant.log) + 1
            if on_error == "raise":
                with pytest.raises(UnexpectedResponse):
                    _ = retriever.retrieve(QUERY) if way == "sync" else await retriever.aretrieve(QUERY)
            else:
                with recorded() as said:
                    found = retriever.retrieve(QUERY) if way == "sync" else await retriever.aretrieve(QUERY)
                same(found, searched[:6])
                assert len(said) == 1 and "UnexpectedResponse" in said[0] and "disk" not in said[0]
            fake_qdrant.fail_after = None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_f10_a_hit_without_a_sound_vector_goes_last(index, memory_client, transform, value):
    retriever = GSTransformRetriever(index, transform=transform, similarity_top_k=90)
    whole = retriever.retrieve(QUERY)
    victim = ids(whole)[3]
    store = memory_client._client.collections["shop"]
    store.vectors[""][store.ids[victim]] = value
    with events(GSTransformEvent) as seen, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value", RuntimeWarning)  # the in-process Qdrant's own
        warnings.simplefilter("error", InstructWarning)
        with pytest.warns(InstructWarning, match=victim) as caught:
            found = retriever.retrieve(QUERY)
    assert len([w for w in caught if w.category is InstructWarning]) == 1 and seen[0].missing == [victim]
    assert ids(found) == [*(key for key in ids(whole) if key != victim), victim] and found[-1].score is None


async def test_no_vector_at_all_is_an_error_where_asked(wire_index, wire_transform):
    class Bare(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=node, score=0.5) for node in make_nodes()[:4]]

    retriever = GSTransformRetriever(Bare(), transform=wire_transform, embed_model=WordEmbedding(), on_error="raise")
    with pytest.raises(MissingVectorsError):
        retriever.retrieve(QUERY)
    with pytest.raises(MissingVectorsError):
        await retriever.aretrieve(QUERY)


async def test_a_failing_embedding_model_is_not_hidden(wire_index, wire_transform):
    class Broken(WordEmbedding):
        def _vector(self, text):
            raise OSError("no route")

    retriever = GSTransformRetriever(wire_index, transform=wire_transform, embed_model=Broken())
    with pytest.raises(OSError, match="no route"):
        retriever.retrieve(QUERY)
    with pytest.raises(OSError, match="no route"):
        await retriever.aretrieve(QUERY)


async def test_f30_async_without_an_async_client_says_so(index, transform):
    retriever = GSTransformRetriever(index, transform=transform)
    with pytest.raises(ValueError, match="aclient"):
        await retriever.aretrieve(QUERY)
    assert len(retriever.retrieve(QUERY)) == 2  # inside a running loop


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, asyncio.CancelledError])
def test_what_must_stop_everything_does(index, transform, stop):
    class Stopping(type(index.vector_store.client)):
        def retrieve(self, *_, **__):
            raise stop

    retriever = GSTransformRetriever(index, transform=transform)
    index.vector_store.client.__class__ = Stopping
    with recorded() as said, pytest.raises(stop):
        retriever.retrieve(QUERY)
    assert not said


# --- Many at once ---------------------------------------------------------------------------------------------------


async def test_f28_many_at_once_give_the_serial_answers(wire_index, fake_qdrant, wire_transform):
    both = {"mood": wire_transform, "thing": fitted(fake_qdrant.local, "thing")}

    def made():
        return GSTransformRetriever(
            wire_index, transform=both, choose=lambda q: "mood" if "happy" in q.query_str else "thing"
        )

    queries = [f"{thing} {mood}" for thing in ("printer", "router", "watch", "phone") for mood in ("happy", "calm")]
    serial = {query: made().retrieve(query) for query in queries}
    shared = made()
    with ThreadPoolExecutor(16) as pool:
        for query, found in zip(queries * 20, pool.map(shared.retrieve, queries * 20), strict=True):
            same(found, serial[query])
    shared = made()
    results = await asyncio.gather(*(shared.aretrieve(query) for query in queries * 5))
    for query, found in zip(queries * 5, results, strict=True):
        same(found, serial[query])


class SlowEmbedding(WordEmbedding):
    model_name: str = "words"

    async def _aget_query_embedding(self, query):
        await asyncio.sleep(0.4)
        return self._vector(query)


async def test_the_event_loop_is_never_blocked(wire_index, fake_qdrant, wire_transform):
    retriever = GSTransformRetriever(wire_index, transform=wire_transform)
    fake_qdrant.lock.acquire()
    threading.Timer(1.5, fake_qdrant.lock.release).start()
    task = asyncio.ensure_future(retriever.aretrieve(QUERY))
    longest, last = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert longest < 1.2 and len(await task) == 2


@pytest.mark.parametrize("where", ["embedding", "store"])
async def test_f29_cancellation_comes_through(wire_index, fake_qdrant, wire_transform, where):
    model = SlowEmbedding() if where == "embedding" else WordEmbedding()
    retriever = GSTransformRetriever(wire_index, transform=wire_transform, embed_model=model)
    await retriever.aretrieve(QUERY)  # the store has been described
    if where == "store":
        fake_qdrant.lock.acquire()
    start = len(fake_qdrant.log)
    try:
        with recorded() as said, pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(retriever.aretrieve(QUERY), 0.1)
    finally:
        if where == "store":
            fake_qdrant.lock.release()
    await asyncio.sleep(0.1)
    assert not said and len(asyncio.all_tasks()) == 1
    assert posts(fake_qdrant, start) == ([] if where == "embedding" else ["/query"])


# --- In an application ----------------------------------------------------------------------------------------------


async def test_in_a_query_engine(wire_index, wire_transform):
    retriever = GSTransformRetriever(wire_index, transform=wire_transform, similarity_top_k=4)
    expected = retriever.retrieve(QUERY)
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    same((await asyncio.to_thread(engine.query, QUERY)).source_nodes, expected)
    same((await engine.aquery(QUERY)).source_nodes, expected)


def test_an_event_tells_of_each_search(index, transform):
    with events(GSTransformEvent) as seen:
        GSTransformRetriever(index, transform=transform, similarity_top_k=10).retrieve(QUERY)
    assert len(seen) == 1 and (seen[0].nodes, seen[0].missing) == (30, [])
    assert seen[0].instruction == "What is the mood?" and "order" not in seen[0].model_dump_json()


def test_f22_f25_copies_of_a_text_come_once_each(memory_client):
    nodes = make_nodes()[:9]
    twins = [node.model_copy(update={"id_": node_id(node.node_id)}) for node in nodes]
    store = QdrantVectorStore(collection_name="copies", client=memory_client)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes")
        storage = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex([*nodes, *twins], storage_context=storage, embed_model=WordEmbedding())
    vectors = np.array([WordEmbedding().get_text_embedding(node.text) for node in nodes])
    transform = GSTransform.from_labels(vectors, [node.metadata["mood"] for node in nodes])
    found = GSTransformRetriever(index, transform=transform, similarity_top_k=50).retrieve(QUERY)
    assert len(set(ids(found))) == 18 == len(found)
    np.testing.assert_allclose(scores_of(found)[::2], scores_of(found)[1::2], atol=1e-6)


def test_f40_warnings_hold_no_text_and_no_key(index, memory_client, transform, caplog):
    class Leaky(type(memory_client)):
        def retrieve(self, *_, **__):
            raise RuntimeError("api-key secret, order")

    retriever = GSTransformRetriever(index, transform=transform)
    memory_client.__class__ = Leaky
    with recorded() as said:
        assert len(retriever.retrieve("a secret question")) == 2
    assert len(said) == 1 and "RuntimeError" in said[0] and "secret" not in said[0] + caplog.text
