"""RefinementRetriever end to end, on a real in-process Qdrant, other stores and the real client wire."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import ScriptedLLM, WordEmbedding
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, make_nodes
from qdrant_client import models

from llama_index_instruct import (
    ConfigurationError,
    InstructWarning,
    MissingVectorsError,
    RefinementError,
    RefinementRetriever,
    RelevanceJudge,
)
from llama_index_instruct.refinement.course_steps import FetchVectors, ReadWords
from llama_index_instruct.refinement.rounds import RefinementRounds
from llama_index_instruct.refinement.settings import MAX_ANGLE
from llama_index_instruct.refinement.words import read_words
from llama_index_instruct.teacher.standins import CallableJudge, to_relevance

QUERY = "order refund printer"


def furious(_query, passages):
    return [float("furious" in passage) for passage in passages]


def furious_share(hits, top=10):
    return np.mean(["furious" in hit.node.text for hit in hits[:top]])


def same(left, right):
    """Same nodes in the same order; the in-process Qdrant itself repeats its scores to seven digits only."""
    assert [h.node.node_id for h in left] == [h.node.node_id for h in right]
    np.testing.assert_allclose([h.score for h in left], [h.score for h in right], atol=1e-6)


def plain_of(index, query=QUERY, **kwargs):
    return index.as_retriever(**kwargs).retrieve(query)


def test_the_judged_property_rises(index):
    retriever = RefinementRetriever(index.as_retriever(similarity_top_k=10), judge=furious, judged=12, rounds=3)
    trace = retriever.refine(QUERY)
    assert furious_share(trace.plain_nodes) < 0.6 < furious_share(trace.nodes)
    assert trace.changed and not trace.reason and 0 < trace.angle <= MAX_ANGLE
    assert len(trace.judgements) == 12 == len({j.node_id for j in trace.judgements})
    assert {j.round for j in trace.judgements} == {1, 2, 3}
    assert set(trace.ms) == {"embed", "search", "vectors", "words", "judge", "solve", "search_again"}
    assert len(trace.nodes) == len(trace.plain_nodes) == 10 and 0 <= trace.overlap < 1
    same(retriever.retrieve(QUERY), trace.nodes)


def test_scores_are_the_stores_cosines_with_the_moved_vector(index, memory_client):
    trace = RefinementRetriever(index, judge=furious).refine(QUERY)
    hits = memory_client.query_points("shop", query=trace.refined_vector.tolist(), limit=2).points
    assert [(str(h.id), h.score) for h in hits] == [(n.node.node_id, n.score) for n in trace.nodes]
    assert math.acos(
        float(trace.query_vector @ trace.refined_vector) / np.linalg.norm(trace.query_vector) ** 2
    ) == pytest.approx(trace.angle, abs=1e-3)


async def test_sync_and_async_are_one_over_the_real_wire(wire_index, fake_qdrant):
    llm = ScriptedLLM(rule=lambda p: 0.95 if "furious" in p else 0.1)
    retriever = RefinementRetriever(wire_index.as_retriever(similarity_top_k=8), llm=llm)
    fake_qdrant.log.clear()
    one = retriever.refine(QUERY)
    assert [path.split("/points")[-1] for _, path, _ in fake_qdrant.log] == ["/query", "", "/query"]
    two = await retriever.arefine(QUERY)
    same(one.nodes, two.nodes)
    same(await retriever.aretrieve(QUERY), one.nodes)
    np.testing.assert_allclose(one.refined_vector, two.refined_vector, atol=1e-6)
    assert one.judgements == two.judgements and one.usage == two.usage
    assert one.calls == 20 and one.tokens == 2020


async def test_two_rounds_of_a_slow_judge_take_two_calls_of_time(index, wire_index):
    llm = ScriptedLLM(rule=lambda p: 0.95 if "furious" in p else 0.1, latency=0.1)
    start = time.perf_counter()
    RefinementRetriever(index, llm=llm, judged=20, rounds=2).retrieve(QUERY)
    assert time.perf_counter() - start < 1.0  # one after the other they would take 2 s
    start = time.perf_counter()
    await RefinementRetriever(wire_index, llm=llm, judged=20, rounds=2).aretrieve(QUERY)
    assert time.perf_counter() - start < 1.0


async def test_the_event_loop_is_never_blocked(wire_index):
    llm = ScriptedLLM(rule=lambda p: 0.9 if "furious" in p else 0.1, latency=0.5)
    retriever = RefinementRetriever(wire_index, llm=llm)
    task = asyncio.ensure_future(retriever.aretrieve(QUERY))
    longest, last = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert longest < 0.4


def test_filters_hold_for_both_searches(index):
    filters = MetadataFilters(filters=[MetadataFilter(key="mood", value="happy")])
    retriever = RefinementRetriever(
        index.as_retriever(similarity_top_k=10, filters=filters),
        judge=lambda q, ps: [float("router" in p) for p in ps],
    )
    trace = retriever.refine(QUERY)
    assert trace.changed and len(trace.nodes) == 10
    assert {hit.node.metadata["mood"] for hit in trace.nodes} == {"happy"}


def hybrid_store(client):
    def sparse(texts):
        words = [sorted({sum(map(ord, w)) % 997 for w in text.split()}) for text in texts]
        return words, [[1.0] * len(w) for w in words]

    return QdrantVectorStore(
        collection_name="hybrid",
        client=client,
        enable_hybrid=True,
        sparse_doc_fn=sparse,
        sparse_query_fn=sparse,
    )


def test_hybrid_collections(memory_client):
    index = index_over(hybrid_store(memory_client))
    inner = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=30, sparse_top_k=30, hybrid_top_k=30)
    trace = RefinementRetriever(inner, judge=furious).refine(QUERY)
    same(trace.plain_nodes, inner.retrieve(QUERY))
    assert trace.changed
    assert furious_share(trace.nodes) > furious_share(trace.plain_nodes)


def test_named_vectors(memory_client):
    memory_client.create_collection(
        "named",
        vectors_config={
            "text-dense": models.VectorParams(size=64, distance=models.Distance.COSINE),
            "other": models.VectorParams(size=3, distance=models.Distance.COSINE),
        },
    )
    store = QdrantVectorStore(collection_name="named", client=memory_client, dense_vector_name="text-dense")
    trace = RefinementRetriever(index_over(store).as_retriever(similarity_top_k=10), judge=furious).refine(QUERY)
    assert trace.changed and furious_share(trace.nodes) > furious_share(trace.plain_nodes)


def test_other_stores_and_plain_retrievers():
    store = SimpleVectorStore()
    index = VectorStoreIndex(
        make_nodes(),
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=WordEmbedding(),
    )
    inner = index.as_retriever(similarity_top_k=30)
    trace = RefinementRetriever(inner, judge=furious).refine(QUERY)
    assert trace.changed and furious_share(trace.nodes) > furious_share(trace.plain_nodes)

    class Wrapped(BaseRetriever):
        def _retrieve(self, query_bundle):
            return inner.retrieve(query_bundle)

    with pytest.raises(ConfigurationError, match="embed_model"):
        RefinementRetriever(Wrapped(), judge=furious)
    wrapped = RefinementRetriever(
        Wrapped(), judge=furious, embed_model=WordEmbedding(), vector_store=store, candidates=20
    )
    assert furious_share(wrapped.retrieve(QUERY)) > furious_share(trace.plain_nodes)
    encoding = RefinementRetriever(Wrapped(), judge=furious, embed_model=WordEmbedding(), encode_missing=True)
    assert encoding.refine(QUERY).changed


class KeywordRerank(BaseNodePostprocessor):
    word: str
    top_n: int = 100
    scale: float = 1.0

    def _postprocess_nodes(self, nodes, query_bundle=None):
        for hit in nodes:
            hit.score = self.scale * float(self.word in hit.node.text)
        return sorted(nodes, key=lambda hit: -hit.score)[: self.top_n]


@pytest.mark.parametrize("scale", [1.0, 10.0, -8.0])
async def test_a_reranker_stands_in_for_the_llm(wire_index, scale):
    word = "furious" if scale > 0 else "happy"
    judge = KeywordRerank(word=word, scale=scale)
    retriever = RefinementRetriever(wire_index.as_retriever(similarity_top_k=10), judge=judge)
    trace = retriever.refine(QUERY)
    assert trace.changed and {j.source for j in trace.judgements} == {"score"}
    if scale > 0:
        assert furious_share(trace.nodes) > furious_share(trace.plain_nodes)
    same(await retriever.aretrieve(QUERY), trace.nodes)


async def test_an_asynchronous_callable_stands_in_too(wire_index):
    async def judge(query, passages):
        await asyncio.sleep(0.001)
        return furious(query, passages)

    retriever = RefinementRetriever(wire_index, judge=judge)
    same(await retriever.aretrieve(QUERY), await asyncio.to_thread(retriever.retrieve, QUERY))
    assert (await retriever.arefine(QUERY)).changed


def test_scores_become_relevance():
    np.testing.assert_allclose(to_relevance([0.2, 0.9]), [0.2, 0.9])
    np.testing.assert_allclose(to_relevance([-2.0, 2.0]), [1 / (1 + math.e**2), 1 / (1 + math.e**-2)])
    np.testing.assert_allclose(to_relevance([1, 5, 10], rating=10), [0.1, 0.5, 1.0])
    np.testing.assert_array_equal(to_relevance([np.inf, 1.0]), [np.nan, 1.0])


def test_the_callers_bundle_is_never_written_to(index):
    bundle = QueryBundle(QUERY)
    RefinementRetriever(index, judge=furious).retrieve(bundle)
    assert bundle.embedding is None
    vector = WordEmbedding().get_query_embedding("router")
    given = QueryBundle(QUERY, embedding=list(vector))
    trace = RefinementRetriever(index, judge=furious).refine(given)
    assert given.embedding == vector
    np.testing.assert_allclose(trace.query_vector, vector, rtol=1e-6)


def test_hits_keep_no_trace_of_the_wide_search(index):
    inner = index.as_retriever(similarity_top_k=3)
    retriever = RefinementRetriever(inner, judge=furious, candidates=50)
    assert len(retriever.retrieve(QUERY)) == 3 and inner.similarity_top_k == 3


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_a_teacher_without_contrast_changes_nothing_and_says_why(index, level):
    retriever = RefinementRetriever(index, judge=lambda q, ps: [level] * len(ps))
    trace = retriever.refine(QUERY)
    same(trace.nodes, plain_of(index))
    assert not trace.changed and trace.reason and trace.angle == 0.0
    # A teacher that says nothing at all is not asked a second time.
    assert len(trace.judgements) == (10 if math.isnan(level) else 20)


def test_pinned_nodes_come_first(index):
    inner = index.as_retriever(similarity_top_k=10)
    one = {inner.retrieve(QUERY)[7].node.text}
    retriever = RefinementRetriever(inner, judge=lambda q, ps: [float(p in one) for p in ps], pin_judged=True)
    trace = retriever.refine(QUERY)
    assert trace.nodes[0].node.text in one and len(trace.nodes) == 10
    assert all(isinstance(hit.score, float) for hit in trace.nodes)


@pytest.mark.parametrize("method", ["logistic", "kl", "rocchio"])
def test_methods_and_their_settings(index, method):
    retriever = RefinementRetriever(index, judge=furious, method=method, method_settings={"max_angle": 0.1})
    assert retriever.refine(QUERY).angle == pytest.approx(0.1, abs=1e-6)


def test_words_are_weighed_unless_they_are_switched_off(index):
    beside, alone = (RefinementRetriever(index, judge=furious, lexical=words).refine(QUERY) for words in (True, False))
    assert np.abs(beside.refined_vector - alone.refined_vector).max() > 1e-3
    assert "words" in beside.ms and "words" not in alone.ms
    for method in ("kl", "rocchio"):
        assert "words" not in RefinementRetriever(index, judge=furious, method=method).refine(QUERY).ms


def test_what_the_words_tell_is_in_the_vector_that_is_searched_with(index):
    """The retriever's vector is that of the rounds on the same candidates, vectors and words."""
    trace = RefinementRetriever(index, judge=furious).refine(QUERY)
    hits = index.as_retriever(similarity_top_k=200).retrieve(QUERY)
    rows = np.array([WordEmbedding().get_text_embedding(hit.node.text) for hit in hits])
    _, first = np.unique(rows, axis=0, return_index=True)
    kept = np.sort(first)
    texts = [hits[i].node.get_content(MetadataMode.EMBED) for i in kept]
    rounds = RefinementRounds(trace.query_vector, rows[kept], judged=20, rounds=2, words=read_words(QUERY, texts))
    while len(picks := rounds.next_rows()):
        rounds.record(picks, np.array(furious("", [hits[kept[i]].node.text for i in picks])))
    length = np.linalg.norm(trace.query_vector)
    np.testing.assert_allclose(trace.refined_vector / length, rounds.refine().vector, atol=1e-4)


def test_words_that_cannot_be_read_are_left_out(index, monkeypatch):
    def broken(*_):
        raise OSError("no such file")

    alone = RefinementRetriever(index, judge=furious, lexical=False).refine(QUERY)
    monkeypatch.setattr("llama_index_instruct.refinement.course_steps.read_words", broken)
    with pytest.warns(InstructWarning, match="OSError while reading the words of the hits; going by their vectors"):
        trace = RefinementRetriever(index, judge=furious).refine(QUERY)
    assert "OSError" in trace.trouble
    np.testing.assert_allclose(trace.refined_vector, alone.refined_vector, atol=1e-6)
    with pytest.raises(RefinementError, match="lexical=False"):
        RefinementRetriever(index, judge=furious, on_error="raise").retrieve(QUERY)


def test_what_is_embedded_is_what_is_read(index):
    nodes = [TextNode(text="one two", metadata={"colour": "red", "price": "cheap"}) for _ in range(2)]
    for node in nodes:
        node.excluded_embed_metadata_keys = ["price"]
    read = read_words("red cheap", ["colour: red\n\none two"] * 2)
    np.testing.assert_array_equal(ReadWords("red cheap", nodes).perform().query, read.query)


def test_no_more_hits_are_weighed_than_there_are_to_be_candidates(index):
    retriever = RefinementRetriever(index.as_retriever(similarity_top_k=60), judge=furious, candidates=20)
    asked = []
    performed = retriever._perform
    retriever._perform = lambda step: (asked.append(step), performed(step))[1]
    trace = retriever.refine(QUERY)
    assert [len(step.nodes) for step in asked if isinstance(step, FetchVectors | ReadWords)] == [20, 20]
    assert trace.changed and len(trace.nodes) == len(trace.plain_nodes) == 60


def test_a_trusted_judge_turns_the_query_further_and_is_asked_about_other_passages(index):
    torn = itertools.cycle([1.0, 0.0])

    def judge(query, passages):
        return [next(torn) for _ in passages]

    careful = RefinementRetriever(index, judge=judge).refine(QUERY)
    trusting = RefinementRetriever(index, judge=judge, trusted_judge=True).refine(QUERY)
    assert trusting.angle > careful.angle and trusting.angle == pytest.approx(MAX_ANGLE, abs=1e-3)
    own = RefinementRetriever(index, judge=judge, trusted_judge=True, method_settings={"max_angle": 0.2})
    assert own.refine(QUERY).angle <= 0.2 + 1e-6 and own.selection.first_exploration == 1.0
    first = [[j.node_id for j in trace.judgements if j.round == 1] for trace in (careful, trusting)]
    assert set(first[0]) != set(first[1])
    for method in ("kl", "rocchio"):
        trusting = RefinementRetriever(index, judge=judge, trusted_judge=True)
        trusting.method = method
        assert trusting.refine(QUERY).changed


def test_what_was_not_answered_counts_as_unjudged(index):
    seen = []

    def judge(query, passages):
        seen.extend(passages)
        return [math.nan if len(seen) <= 10 and "furious" not in p else float("furious" in p) for p in passages]

    trace = RefinementRetriever(index, judge=judge).refine(QUERY)
    assert trace.changed and any(math.isnan(judged.relevance) for judged in trace.judgements)


def test_prompts_can_be_replaced(index):
    llm = ScriptedLLM(rule=lambda p: 0.9 if "furious" in p else 0.1)
    retriever = RefinementRetriever(index, llm=llm)
    version = retriever.judge.prompt.version
    template = ChatPromptTemplate.from_messages([("user", "Deutsch? {query} {task}\n{mark}\n{passage}\n{mark}\nyes?")])
    retriever.update_prompts({"judge_prompt": template})
    retriever.retrieve(QUERY)
    assert "Deutsch?" in llm.prompts[0] and retriever.judge.prompt.version != version
    assert retriever.get_prompts()["judge_prompt"] == template


# --- Faults, numbered as in the fault list of the project -----------------------------------------------------------


async def assert_plain_with_one_warning(retriever, index, reason, query=QUERY):
    """Same ids and scores as the plain retriever, one warning, the reason in the trace; both ways."""
    plain = await asyncio.to_thread(index.as_retriever().retrieve, query)
    for kind in ("refine", "arefine"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trace = getattr(retriever, kind)(query)
            trace = await trace if hasattr(trace, "__await__") else trace
        same(trace.nodes, plain)
        ours = [w for w in caught if issubclass(w.category, InstructWarning)]
        assert len(ours) == 1, [str(w.message) for w in caught]
        assert reason in str(ours[0].message) and reason in trace.reason
        assert not trace.changed and "secret" not in str(ours[0].message)
    raising = copy.copy(retriever)
    raising.on_error = "raise"
    with pytest.raises(RefinementError, match=reason):
        raising.refine(query)
    with pytest.raises(RefinementError, match=reason):
        await raising.arefine(query)


async def test_f1_a_hanging_teacher(wire_index, fake_openai, wire_llm):
    fake_openai.mode = "hang"
    retriever = RefinementRetriever(wire_index, llm=wire_llm, judge_deadline=0.2)
    start = time.perf_counter()
    await assert_plain_with_one_warning(retriever, wire_index, "deadline")
    assert time.perf_counter() - start < 4 * 0.5 + 0.5
    fake_openai.released.set()


@pytest.mark.parametrize("mode", ["429", "500", "html", "bad json", "no choices", "error 200"])
async def test_f2_f3_a_failing_teacher(wire_index, fake_openai, wire_llm, mode):
    fake_openai.mode = mode
    retriever = RefinementRetriever(wire_index, llm=wire_llm, judged=4)
    await assert_plain_with_one_warning(retriever, wire_index, "failure")


@pytest.mark.parametrize("mode", ["400", "401"])
async def test_f4_a_wrong_key(wire_index, fake_openai, wire_llm, mode):
    fake_openai.mode = mode
    judge = RelevanceJudge(wire_llm, workers=3)
    await assert_plain_with_one_warning(RefinementRetriever(wire_index, judge=judge), wire_index, "configuration")
    assert len(fake_openai.requests) <= 4 * 3


@pytest.mark.parametrize("answer", ["who can tell", "", "yes and no", "I cannot help with that."])
async def test_f5_unreadable_answers_change_nothing(wire_index, answer):
    llm = ScriptedLLM(rule=lambda p: answer)
    await assert_plain_with_one_warning(RefinementRetriever(wire_index, llm=llm), wire_index, "unreadable")
    assert len(llm.prompts) == 4 * 10  # the second round is not paid for


def test_f7_one_failed_judgement_is_survived(index):
    calls = []

    def rule(passage):
        calls.append(passage)
        return RuntimeError("x") if len(calls) == 3 else 0.9 if "furious" in passage else 0.1

    trace = RefinementRetriever(index, llm=ScriptedLLM(rule=rule)).refine(QUERY)
    assert trace.changed and trace.usage.failures == 1 and "RuntimeError" in trace.trouble


async def test_a_judge_that_raises(wire_index):
    def judge(query, passages):
        raise OSError("disk secret")

    await assert_plain_with_one_warning(RefinementRetriever(wire_index, judge=judge), wire_index, "OSError")


async def test_a_judge_of_wrong_length(wire_index):
    retriever = RefinementRetriever(wire_index, judge=lambda q, ps: [1.0])
    await assert_plain_with_one_warning(retriever, wire_index, "DimensionMismatchError")


async def test_a_callable_that_hangs(wire_index):
    def judge(query, passages):
        time.sleep(2)
        return [1.0] * len(passages)

    retriever = RefinementRetriever(wire_index, judge=judge, judge_deadline=0.2)
    start = time.perf_counter()
    await assert_plain_with_one_warning(retriever, wire_index, "JudgementTimeout")
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize("vector", [[0.0] * 64, [math.nan] * 64, [math.inf] * 64])
def test_f9_f12_unsound_query_vectors(index, memory_client, vector):
    retriever = RefinementRetriever(index, judge=furious)
    memory_client.close()
    with pytest.raises(ConfigurationError, match="query embedding"):
        retriever.retrieve(QueryBundle(QUERY, embedding=vector))


async def test_f10_f26_hits_without_sound_vectors_are_left_out(index, memory_client):
    victim = plain_of(index)[0].node.node_id
    store = memory_client._client.collections["shop"]
    store.vectors[""][store.ids[victim]] = np.nan
    good = [hit.node.node_id for hit in plain_of(index, similarity_top_k=5) if hit.node.node_id != victim]
    with pytest.warns(InstructWarning, match=victim) as caught:
        trace = RefinementRetriever(index, judge=furious).refine(QUERY)
    assert len(caught) == 1 and trace.changed
    assert victim not in {j.node_id for j in trace.judgements} and good


async def test_f19_qdrant_down_at_the_first_search(wire_index, fake_qdrant):
    retriever = RefinementRetriever(wire_index, judge=furious)
    fake_qdrant.fail_after = 0
    from qdrant_client.http.exceptions import UnexpectedResponse

    with pytest.raises(UnexpectedResponse):
        retriever.retrieve(QUERY)
    with pytest.raises(UnexpectedResponse):
        await retriever.aretrieve(QUERY)


@pytest.mark.parametrize("survived", [1, 2])
async def test_f20_qdrant_dies_after_the_first_search(wire_index, fake_qdrant, survived):
    retriever = RefinementRetriever(wire_index, judge=furious)
    plain = await asyncio.to_thread(plain_of, wire_index)
    for kind in ("refine", "arefine"):
        fake_qdrant.fail_after = len(fake_qdrant.log) + survived
        with pytest.warns(InstructWarning, match="UnexpectedResponse") as caught:
            trace = getattr(retriever, kind)(QUERY)
            trace = await trace if hasattr(trace, "__await__") else trace
        same(trace.nodes, plain)
        assert len(caught) == 1
        fake_qdrant.fail_after = None


def test_f21_an_empty_collection_costs_no_teacher_call(memory_client):
    memory_client.create_collection(
        "empty", vectors_config=models.VectorParams(size=64, distance=models.Distance.COSINE)
    )
    store = QdrantVectorStore(collection_name="empty", client=memory_client)
    index = VectorStoreIndex.from_vector_store(store, embed_model=WordEmbedding())
    llm = ScriptedLLM(rule=lambda p: 1.0)
    trace = RefinementRetriever(index, llm=llm).refine(QUERY)
    assert trace.nodes == [] and llm.prompts == [] and "nothing" in trace.reason


def test_f22_more_judgements_than_documents(memory_client):
    store = QdrantVectorStore(collection_name="few", client=memory_client)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes")
        index = VectorStoreIndex(
            make_nodes()[:7],
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=WordEmbedding(),
        )
    trace = RefinementRetriever(index.as_retriever(similarity_top_k=50), judge=furious).refine(QUERY)
    assert len(trace.judgements) == 7 and len(trace.nodes) == 7


def test_f25_copies_of_a_text_are_judged_once(memory_client):
    store = QdrantVectorStore(collection_name="copies", client=memory_client)
    nodes = make_nodes()
    twin = [TextNode(text="order refund printer furious", id_=str(uuid.UUID(int=i + 1))) for i in range(6)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes")
        index = VectorStoreIndex(
            nodes + twin,
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=WordEmbedding(),
        )
    trace = RefinementRetriever(index.as_retriever(similarity_top_k=30), judge=furious).refine(QUERY)
    judged = {j.node_id for j in trace.judgements}
    assert len(judged & {node.node_id for node in twin}) == 1
    assert len({hit.node.node_id for hit in trace.nodes}) == 30


async def test_f28_many_at_once_give_the_serial_answers(wire_index):
    llm = ScriptedLLM(rule=lambda p: 0.9 if "furious" in p else 0.1)
    retriever = RefinementRetriever(wire_index, judge=RelevanceJudge(llm, workers=8))
    queries = [f"order refund {thing}" for thing in ("printer", "router", "laptop", "phone")] * 4
    serial = [await asyncio.to_thread(retriever.retrieve, query) for query in queries[:4]] * 4
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(retriever.retrieve, query) for query in queries]
        for left, right in zip(serial, futures, strict=True):
            same(left, right.result())
    for left, right in zip(serial, await asyncio.gather(*map(retriever.aretrieve, queries)), strict=True):
        same(left, right)
    assert llm.most_at_once <= 8


async def test_f29_cancellation_stops_the_teacher(wire_index):
    llm = ScriptedLLM(rule=lambda p: 0.9, latency=0.15)
    judge = RelevanceJudge(llm, workers=2)
    retriever = RefinementRetriever(wire_index, judge=judge)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(retriever.aretrieve(QUERY), 0.1)
    asked = len(llm.prompts)
    await asyncio.sleep(0.3)
    assert len(llm.prompts) == asked
    assert len(asyncio.all_tasks()) == 1


async def test_f30_sync_inside_a_loop_works_and_async_without_client_says_what_to_type(index):
    retriever = RefinementRetriever(index, llm=ScriptedLLM(rule=lambda p: 0.9 if "furious" in p else 0.1))
    assert len(retriever.retrieve(QUERY)) == 2
    with pytest.raises(ValueError, match="aclient"):
        await retriever.aretrieve(QUERY)


@pytest.mark.parametrize("query", ["", "  \n\t"])
def test_f31_empty_queries(index, memory_client, query):
    retriever = RefinementRetriever(index, judge=furious)
    memory_client.close()
    with pytest.raises(ConfigurationError, match="query: expected some text"):
        retriever.retrieve(query)


def test_f34_a_poisoned_document_lifts_itself_a_bounded_way():
    """The obedient teacher says yes to one planted hit: the query keeps its angle bound, no other label moves."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        query = rng.normal(size=32)
        rows = query + 1.5 * rng.normal(size=(60, 32))
        rows = rows[np.argsort(-(rows @ query) / np.linalg.norm(rows, axis=1))]
        truth = (rng.random(60) < 0.3).astype(float)
        poisoned = int(rng.integers(0, 10))
        rounds = RefinementRounds(query, rows, judged=20, rounds=2)
        while len(picks := rounds.next_rows()):
            rounds.record(picks, np.where(picks == poisoned, 1.0, truth[picks]))
        worst = max(worst, rounds.refine().angle)
    assert worst <= MAX_ANGLE + 1e-9


async def test_f40_warnings_hold_no_text_and_no_key(wire_index, fake_openai, wire_llm, caplog):
    fake_openai.mode = "500"
    retriever = RefinementRetriever(wire_index, llm=wire_llm, judged=4)
    with pytest.warns(InstructWarning) as caught:
        await retriever.aretrieve("a most secret question")
    said = " ".join(str(w.message) for w in caught) + caplog.text
    assert "secret" not in said and "order" not in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judge": None}, "llm=... or judge=..."),
        ({"llm": ScriptedLLM()}, "llm=... or judge=..."),
        ({"task": "x"}, "task"),
        ({"judge": 7}, "judge: expected an LLM"),
        ({"judged": 1}, "judged: expected 2"),
        ({"judged": 0}, "judged"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 21}, "rounds"),
        ({"candidates": 10}, "candidates"),
        ({"judge_deadline": 0.0}, "judge_deadline"),
        ({"on_error": "ignore"}, "on_error"),
        ({"method": "newton"}, "method"),
        ({"method_settings": {"speed": 1}}, "unknown setting speed"),
    ],
)
def test_wrong_settings_are_named(index, settings, words):
    with pytest.raises(ConfigurationError, match=words):
        RefinementRetriever(index, **{"judge": furious, **settings})


def test_retriever_and_index_by_any_name(index):
    for arguments in ({"index": index}, {"retriever": index}, {"retriever": index.as_retriever()}):
        assert RefinementRetriever(judge=furious, **arguments).refine(QUERY).changed
    with pytest.raises(ConfigurationError, match="retriever or an index"):
        RefinementRetriever(judge=furious)
    with pytest.raises(ConfigurationError, match="found str"):
        RefinementRetriever("shop", judge=furious)


@pytest.mark.parametrize(
    "mode", [VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.MMR]
)
def test_f36_modes_without_one_dense_vector_are_refused(index, mode):
    with pytest.raises(ConfigurationError, match="query mode"):
        RefinementRetriever(index.as_retriever(vector_store_query_mode=mode), judge=furious)


def test_an_event_tells_of_each_query(index):
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler

    from llama_index_instruct import RefinementEvent

    seen = []

    class Handler(BaseEventHandler):
        def handle(self, event, **_):
            if isinstance(event, RefinementEvent):
                seen.append(event)

    dispatcher = get_dispatcher()
    handler = Handler()
    dispatcher.add_event_handler(handler)
    try:
        RefinementRetriever(index, judge=furious).retrieve(QUERY)
    finally:
        dispatcher.event_handlers.remove(handler)
    assert len(seen) == 1 and seen[0].changed and seen[0].judgements == 20


def test_nodes_with_scores_are_llamaindexs_own(index):
    hits = RefinementRetriever(index, judge=furious).retrieve(QUERY)
    assert all(type(hit) is NodeWithScore and type(hit.score) is float for hit in hits)
    assert hits[0].to_json()


async def test_one_unreadable_answer_among_no_is_not_a_failure(wire_index):
    def rule(passage):
        return "who knows" if passage.endswith("number000") else "no"

    trace = await RefinementRetriever(wire_index, llm=ScriptedLLM(rule=rule)).arefine(QUERY)
    assert "no difference" in trace.reason and "unreadable" in trace.trouble


async def test_an_exhausted_iterator_in_a_judge_is_an_error_not_a_hang(wire_index):
    answers = iter([])
    retriever = RefinementRetriever(wire_index, judge=lambda q, ps: next(answers), judge_deadline=None)
    with pytest.warns(InstructWarning, match="refinement stage"):
        assert not (await asyncio.wait_for(retriever.arefine(QUERY), 5)).changed
    with pytest.warns(InstructWarning, match="refinement stage"):
        assert not (await asyncio.to_thread(retriever.refine, QUERY)).changed


def test_own_messages_are_passed_on(index):
    with pytest.warns(InstructWarning, match="expected 10 scores"):
        RefinementRetriever(index, judge=lambda q, ps: [1.0]).retrieve(QUERY)
    with pytest.raises(ConfigurationError, match="similarity_top_k"):
        RefinementRetriever(index.as_retriever(similarity_top_k=0), judge=furious)


async def test_ratings_mean_the_same_in_every_round(wire_index):
    def rate(query, passages):
        return [3.0 if "furious" in p else 1.0 for p in passages]

    trace = await RefinementRetriever(wire_index, judge=CallableJudge(rate, rating=10)).arefine(QUERY)
    assert {round(j.relevance, 6) for j in trace.judgements} == {0.1, 0.3}


def test_a_copy_keeps_its_settings(index):
    twin = copy.copy(RefinementRetriever(index, judge=furious, judged=6))
    assert len(twin.refine(QUERY).judgements) == 6


def test_hits_without_any_stored_vector_are_named(index):
    """The error chained to a refusal tells which nodes and what to type."""

    class Elsewhere(SimpleVectorStore):
        def get(self, text_id):
            raise KeyError(text_id)

    retriever = RefinementRetriever(index, judge=furious, vector_store=Elsewhere(), on_error="raise")
    with pytest.raises(RefinementError, match="no hit has a usable stored vector") as caught:
        retriever.retrieve(QUERY)
    cause = caught.value.__cause__
    assert isinstance(cause, MissingVectorsError) and len(cause.node_ids) == 90 and "encode_missing" in str(cause)
