"""TransformedEmbedding: vectors that fit a migrated collection."""

from __future__ import annotations

import asyncio
import copy
import pickle

import numpy as np
import pytest
from fakes import WordEmbedding
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from shop import QUERY, OtherWords, fitted, ids, ranking_by_hand, scores_of, vectors_in

from llama_index_instruct import (
    ConfigurationError,
    DimensionMismatchError,
    GSTransform,
    TransformedEmbedding,
    TransformFileError,
    transform_collection,
)

TEXTS = ["furious printer", "happy router thanks", "order refund calm", "laptop", "watch number123"]


@pytest.fixture
def mood(index, memory_client):
    return fitted(memory_client)


def moved(transform, texts):
    rows = transform.transform(np.array([WordEmbedding().get_query_embedding(text) for text in texts]))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_transform_of_the_models_vectors(mood):
    model = TransformedEmbedding(WordEmbedding(), mood)
    expected = moved(mood, TEXTS)
    np.testing.assert_allclose(model.get_text_embedding_batch(TEXTS), expected, atol=1e-6)
    for text, vector in zip(TEXTS, expected, strict=True):
        for one in (model.get_query_embedding(text), model.get_text_embedding(text)):
            assert isinstance(one, list) and isinstance(one[0], float) and len(one) == mood.output_dimension
            np.testing.assert_allclose(one, vector, atol=1e-6)
            assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-6)


async def test_sync_async_alone_and_in_a_batch(mood):
    model = TransformedEmbedding(WordEmbedding(), mood)
    batch = model.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(await model.aget_text_embedding_batch(TEXTS), batch, atol=1e-6)
    alone = await asyncio.gather(*map(model.aget_text_embedding, TEXTS))
    np.testing.assert_allclose(alone, batch, atol=1e-6)
    queries = await asyncio.gather(*map(model.aget_query_embedding, TEXTS))
    np.testing.assert_allclose(queries, [model.get_query_embedding(text) for text in TEXTS], atol=1e-6)
    assert model.get_text_embedding_batch([]) == await model.aget_text_embedding_batch([]) == []


class Sided(WordEmbedding):
    """Another vector for a query than for a text, and batches counted."""

    model_name: str = "sided"
    batches: list[int] = []  # noqa: RUF012

    def _get_query_embedding(self, query):
        return self._vector("query " + query)

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)

    def _get_text_embeddings(self, texts):
        self.batches.append(len(texts))
        return [self._vector(text) for text in texts]


def test_queries_are_asked_as_queries_and_texts_in_batches(mood):
    inner = Sided(embed_batch_size=2)
    model = TransformedEmbedding(inner, mood)
    assert model.embed_batch_size == 2
    np.testing.assert_allclose(model.get_query_embedding("laptop"), moved(mood, ["query laptop"])[0], atol=1e-6)
    np.testing.assert_allclose(model.get_text_embedding("laptop"), moved(mood, ["laptop"])[0], atol=1e-6)
    inner.batches.clear()
    model.get_text_embedding_batch(TEXTS)
    assert inner.batches == [2, 2, 1]


@pytest.mark.parametrize("size", [8, 65])
async def test_another_dimension(mood, size):
    model = TransformedEmbedding(OtherWords(size=size), mood)
    calls = (model.get_query_embedding, model.get_text_embedding, lambda text: model.get_text_embedding_batch([text]))
    for call in calls:
        with pytest.raises(DimensionMismatchError, match=f"64.*other words.*{size}"):
            call("laptop")
    for acall in (model.aget_query_embedding, model.aget_text_embedding):
        with pytest.raises(DimensionMismatchError, match=f"64.*{size}"):
            await acall("laptop")


def test_end_to_end(index, memory_client, mood):
    stored = vectors_in(memory_client)
    transform_collection(memory_client, "shop", "mood", mood, page=30, progress=False)
    model = TransformedEmbedding(WordEmbedding(), mood)
    other = VectorStoreIndex.from_vector_store(QdrantVectorStore("mood", client=memory_client), embed_model=model)
    hits = other.as_retriever(similarity_top_k=10).retrieve(QUERY)
    keys, scores = ranking_by_hand(mood, stored, list(stored))
    np.testing.assert_allclose(scores_of(hits), scores[:10], atol=1e-5)
    assert set(ids(hits)) <= {key for key, score in zip(keys, scores, strict=True) if score >= scores[9] - 1e-5}
    assert all("furious" in hit.node.text for hit in hits)
    # New documents go in as they would have been migrated.
    text = "order refund printer angry shouting furious brand new"
    other.insert_nodes([TextNode(text=text, id_="7e57d004-2b97-4e7a-b45f-5387367791cd")])
    new = memory_client.retrieve("mood", ["7e57d004-2b97-4e7a-b45f-5387367791cd"], with_vectors=True)[0]
    np.testing.assert_allclose(new.vector, moved(mood, [text])[0], atol=1e-6)


def test_names_tell_transforms_and_models_apart(memory_client, index, mood):
    thing = fitted(memory_client, "thing")
    models = [TransformedEmbedding(inner(), one) for inner in (WordEmbedding, OtherWords) for one in (mood, thing)]
    assert len({model.model_name for model in models}) == 4
    assert len({model.transform_digest for model in models}) == 2
    assert len({model.to_json() for model in models}) == 4
    assert TransformedEmbedding(WordEmbedding(), mood).model_name == models[0].model_name
    assert models[0].model_name.startswith("words") and models[0].class_name() == "TransformedEmbedding"
    assert TransformedEmbedding(WordEmbedding(), mood, model_name="mine", embed_batch_size=3).model_name == "mine"


def test_from_a_folder(tmp_path, mood):
    mood.save_pretrained(tmp_path)
    expected = TransformedEmbedding(WordEmbedding(), mood)
    for folder in (tmp_path, str(tmp_path)):
        model = TransformedEmbedding(WordEmbedding(), folder)
        assert model.model_name == expected.model_name
        assert model.get_query_embedding("laptop") == expected.get_query_embedding("laptop")
    with pytest.raises(TransformFileError):
        TransformedEmbedding(WordEmbedding(), tmp_path / "nothing")


@pytest.mark.parametrize("wrong", [None, 7, np.eye(64)])
def test_what_is_no_transform(wrong):
    with pytest.raises(ConfigurationError, match=f"found {type(wrong).__name__}"):
        TransformedEmbedding(WordEmbedding(), wrong)


@pytest.mark.parametrize("clone", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy, copy.copy])
def test_pickle_and_copies(mood, clone, caplog):
    model = TransformedEmbedding(WordEmbedding(), mood, embed_batch_size=4)
    other = clone(model)
    assert (other.model_name, other.embed_batch_size, other.transform_digest) == (model.model_name, 4, mood.digest)
    assert other.get_query_embedding("laptop") == model.get_query_embedding("laptop")
    assert other.get_text_embedding_batch(TEXTS) == model.get_text_embedding_batch(TEXTS)
    assert not caplog.records


def test_dictionaries(mood, tmp_path):
    mood.save_pretrained(tmp_path)
    model = TransformedEmbedding(WordEmbedding(), tmp_path, embed_batch_size=4)
    other = TransformedEmbedding.from_dict(model.to_dict(), embed_model=WordEmbedding())
    assert other.model_name == model.model_name and other.embed_batch_size == 4
    assert other.get_query_embedding("laptop") == model.get_query_embedding("laptop")


def test_dictionaries_with_the_parts_given_again(mood):
    model = TransformedEmbedding(WordEmbedding(), mood, embed_batch_size=4)
    other = TransformedEmbedding.from_dict(model.to_dict(), embed_model=WordEmbedding(), transform=mood)
    assert other.model_name == model.model_name and other.embed_batch_size == 4
    assert other.get_query_embedding("laptop") == model.get_query_embedding("laptop")


def test_another_transform_does_not_pass_under_the_old_digest(memory_client, index, mood):
    thing, model = fitted(memory_client, "thing"), TransformedEmbedding(WordEmbedding(), mood)
    try:
        other = TransformedEmbedding.from_dict(model.to_dict(), embed_model=WordEmbedding(), transform=thing)
    except ConfigurationError as error:
        assert "transform_digest" in str(error)
    else:
        assert other.transform_digest == thing.digest


def test_a_cache_of_its_own(mood):
    cache = SimpleKVStore()
    model = TransformedEmbedding(WordEmbedding(), mood, embeddings_cache=cache)
    first = model.get_text_embedding_batch(TEXTS)
    assert model.get_text_embedding_batch(TEXTS) == first
    np.testing.assert_allclose(first, moved(mood, TEXTS), atol=1e-6)


def test_a_cached_inner_model_stays_plain(mood):
    inner = WordEmbedding(embeddings_cache=SimpleKVStore())
    inner.get_text_embedding_batch(TEXTS)
    calls = inner.calls
    model = TransformedEmbedding(inner, mood)
    np.testing.assert_allclose(model.get_text_embedding_batch(TEXTS), moved(mood, TEXTS), atol=1e-6)
    assert model.embed_model.calls == calls


def zero_map(mood):
    ((weight, bias),) = mood.layers
    return GSTransform(((np.zeros_like(weight), np.zeros_like(bias)),), mood.search, mood.info)


def test_what_maps_to_zero_is_zero_and_not_nan(mood):
    model = TransformedEmbedding(WordEmbedding(), zero_map(mood))
    assert not np.any(model.get_text_embedding("laptop"))
