"""What is searched, what is found, and in which order."""

import sys

import numpy as np
import pytest
from fakes import WordEmbedding
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import make_nodes
from pydantic import Field
from qdrant_client import AsyncQdrantClient

from llama_index_instruct import ConfigurationError, MissingExtraError
from llama_index_instruct.incontext.candidates import CandidateFinder, best_rows, fused
from llama_index_instruct.incontext.corpus import index_nodes, make_corpus, node_texts

PASSAGES = [
    "The printer jams every morning",
    "A laptop for travelling",
    "Ink and paper for the printer printer",
    "Watches and phones",
    "The phone rings in the morning",
]


class Counting(WordEmbedding):
    """Notes which passages it encodes."""

    encoded: list[str] = Field(default_factory=list)

    def _get_text_embedding(self, text):
        self.encoded.append(text)
        return super()._get_text_embedding(text)


def vectors_of(texts):
    return np.array([WordEmbedding().get_text_embedding(text) for text in texts], dtype=np.float32)


def finder(model=None, passages=PASSAGES, **settings):
    return CandidateFinder(passages, model, progress=False, **settings)


def found(search, *queries):
    return [rows.tolist() for rows in search.find(queries, search.query_vectors(queries))]


# the best, and fusion


@given(st.lists(st.integers(-3, 3), max_size=30), st.integers(1, 35))
@settings(max_examples=80, deadline=None)
def test_the_best_rows_are_those_of_a_stable_sort(scores, count):
    scores = np.array(scores, dtype=np.float32)
    assert best_rows(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()


def slowly_fused(rankings):
    sums = {}
    for row in range(10):
        places = [ranking.index(row) + 1 for ranking in rankings if row in ranking]
        if places:
            sums[row] = sum(1 / (60 + place) for place in places)
    return [row for row, _ in sorted(sums.items(), key=lambda item: (-item[1], item[0]))]


@given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=10), max_size=3))
@settings(max_examples=80, deadline=None)
def test_fusion_is_by_reciprocal_rank(rankings):
    assert fused([np.array(ranking, dtype=np.intp) for ranking in rankings]).tolist() == slowly_fused(rankings)


def test_what_both_searches_find_comes_before_what_one_finds_first():
    assert fused([np.array([1, 5]), np.array([2, 5])]).tolist() == [5, 1, 2]


# lexical search


def test_passages_without_any_of_the_querys_words_never_appear():
    assert found(finder(), "printer", "phone morning") == [[2, 0], [4, 0]]


@pytest.mark.parametrize("query", ["", "   ", "zebra", "the and of", "?!", "日本"])
def test_queries_that_share_no_word_find_nothing(query):
    assert found(finder(), query) == [[]]


def test_unknown_words_beside_known_ones_change_nothing():
    assert found(finder(), "zebra printer", "printer") == [[2, 0]] * 2


def test_so_many_best_hits_are_taken():
    assert found(finder(lexical=1), "printer morning") == [[0]]


@pytest.mark.parametrize("passages", [["a", "the"], ["?", ""]])
def test_passages_without_words_are_found_by_none(passages):
    assert found(finder(passages=passages), "printer") == [[]]


def test_bm25_comes_with_the_extra_train(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"\[train\]"):
        finder()
    assert found(finder(WordEmbedding(), lexical=0), "laptop")[0][0] == 1


# dense search


def test_dense_search_alone_ranks_by_cosine():
    expected = np.argsort(-vectors_of(PASSAGES) @ vectors_of(["morning phone"])[0]).tolist()
    assert found(finder(WordEmbedding(), lexical=0), "morning phone") == [expected]
    assert found(finder(WordEmbedding(), lexical=0, dense=2), "morning phone") == [expected[:2]]


def test_both_searches_are_fused():
    queries = ["morning phone", "printer ink", "zebra"]
    dense = found(finder(WordEmbedding(), lexical=0, dense=3), *queries)
    lexical = found(finder(lexical=2), *queries)
    both = [slowly_fused(rankings) for rankings in zip(lexical, dense, strict=True)]
    assert found(finder(WordEmbedding(), lexical=2, dense=3), *queries) == both


def test_without_dense_hits_the_model_only_compares():
    search = finder(WordEmbedding(), dense=0)
    assert found(search, "printer", "zebra") == [[2, 0], []]
    assert search.similarities(search.query_vectors([PASSAGES[1]])[0], [1]) == pytest.approx([1.0])


@pytest.mark.parametrize("given", [{"lexical": 0}, {"model": WordEmbedding(), "lexical": 0, "dense": 0}])
def test_something_must_be_searched_with(given):
    with pytest.raises(
        ConfigurationError, match="candidates: expected lexical > 0, or an embedding model and dense > 0"
    ):
        finder(**given)


def test_there_are_no_similarities_without_a_model():
    assert finder().query_vectors(["printer"]) is None
    with pytest.raises(ConfigurationError, match="expected an embedding model to compare with"):
        finder().similarities(np.zeros(2), [0])


def test_hybrid_scores_are_the_mean_of_cosine_and_share_of_the_best():
    search = finder(WordEmbedding())
    (vector,) = search.query_vectors(["printer"])
    cosines = search.similarities(vector, range(5))
    scores = search.hybrid_scores("printer", vector, range(5))
    shares = 2 * scores - cosines
    assert shares[2] == pytest.approx(1.0) and 0.1 < shares[0] < 1.0
    np.testing.assert_allclose(shares[[1, 3, 4]], 0.0, atol=1e-9)


def test_hybrid_scores_of_unknown_words_are_half_the_cosines():
    search = finder(WordEmbedding())
    (vector,) = search.query_vectors(["zebra"])
    np.testing.assert_allclose(
        search.hybrid_scores("zebra", vector, [3, 1]), search.similarities(vector, [3, 1]) / 2, atol=1e-9
    )


def test_hybrid_scores_need_lexical_search():
    search = finder(WordEmbedding(), lexical=0)
    with pytest.raises(ConfigurationError, match="'hybrid' expects lexical > 0, found 0"):
        search.hybrid_scores("printer", search.query_vectors(["printer"])[0], [0])


# stored vectors


def test_stored_vectors_are_used_and_only_missing_rows_encoded():
    stored = np.arange(1, 5 * 64 + 1, dtype=np.float32).reshape(5, 64)
    stored[[1, 3], 2] = np.nan
    model = Counting()
    search = finder(model, vectors=stored)
    assert sorted(model.encoded) == sorted([PASSAGES[1], PASSAGES[3]])
    known = [0, 2, 4]
    expected = stored[known] / np.linalg.norm(stored[known], axis=1, keepdims=True)
    np.testing.assert_allclose(search.vectors[known], expected, rtol=1e-6)
    np.testing.assert_allclose(search.vectors[[1, 3]], vectors_of(PASSAGES)[[1, 3]], atol=1e-6)
    assert np.isnan(stored[1, 2])  # what was given is not written to


@pytest.mark.parametrize("stored", [None, np.full((5, 3), np.nan, np.float32)], ids=["none", "all missing"])
def test_without_stored_vectors_all_are_encoded(stored):
    model = Counting()
    np.testing.assert_allclose(finder(model, vectors=stored).vectors, vectors_of(PASSAGES), atol=1e-6)
    assert sorted(model.encoded) == sorted(PASSAGES)


# LlamaIndex


def default_index():
    return VectorStoreIndex(make_nodes(), embed_model=WordEmbedding())


def test_texts_and_vectors_of_a_qdrant_index_come_from_the_store(index):
    assert not index.docstore.docs
    corpus = make_corpus(index, [])
    texts, vectors = corpus.texts, corpus.vectors
    assert sorted(texts) == sorted(node.text for node in make_nodes())
    np.testing.assert_allclose(vectors, vectors_of(texts), atol=1e-6)


def test_texts_and_vectors_of_the_default_store():
    corpus = make_corpus(default_index(), [])
    texts, vectors = corpus.texts, corpus.vectors
    assert texts == [node.text for node in make_nodes()]
    np.testing.assert_allclose(vectors, vectors_of(texts), atol=1e-6)


def test_a_store_is_asked_for_all_it_has(index, memory_client, monkeypatch):
    limits, scroll = [], memory_client.scroll

    def noted(*args, limit, **kwargs):
        limits.append(limit)
        return scroll(*args, limit=limit, **kwargs)

    monkeypatch.setattr(memory_client, "scroll", noted)
    index_nodes(index)
    assert limits == [90]  # its own default would be 9,999


def test_a_text_is_what_an_embedding_model_reads():
    node = TextNode(
        text="The printer jams", metadata={"thing": "printer", "id": 7}, excluded_embed_metadata_keys=["id"]
    )
    assert node_texts([node]) == ["thing: printer\n\nThe printer jams"]


def test_a_positive_is_known_by_the_text_of_its_node_with_and_without_metadata():
    node = TextNode(text="The printer jams", metadata={"thing": "printer"})
    corpus = make_corpus([node], ["The printer jams", "thing: printer\n\nThe printer jams", "new"])
    assert corpus.texts == ["thing: printer\n\nThe printer jams", "new"]
    assert corpus.rows["The printer jams"] == 0


def test_blank_passages_are_no_candidates_and_no_positives():
    assert make_corpus(["a", "", " \x00", "a"], ["b"]).texts == ["a", "b"]
    with pytest.raises(ConfigurationError, match="pairs: expected positives with some text"):
        make_corpus(["a"], [" "])


def test_an_index_without_nodes_is_an_error(memory_client):
    memory_client.create_collection("empty", vectors_config={})
    store = QdrantVectorStore(collection_name="empty", client=memory_client)
    with pytest.raises(
        ConfigurationError, match=r"index: expected nodes .* found none \(QdrantVectorStore\); give the nodes"
    ):
        index_nodes(VectorStoreIndex.from_vector_store(store, embed_model=WordEmbedding()))


def test_an_index_without_texts_says_to_give_the_nodes():
    index = default_index()
    bare = VectorStoreIndex(
        [], storage_context=StorageContext.from_defaults(vector_store=index.vector_store), embed_model=WordEmbedding()
    )
    with pytest.raises(ConfigurationError, match=r"found none \(SimpleVectorStore\); give the nodes"):
        index_nodes(bare)


async def test_an_index_with_an_async_client_alone_is_named():
    aclient = AsyncQdrantClient(":memory:")
    store = QdrantVectorStore(collection_name="c", aclient=aclient)
    with pytest.raises(ConfigurationError, match="client"):
        index_nodes(VectorStoreIndex.from_vector_store(store, embed_model=WordEmbedding()))
    await aclient.close()
