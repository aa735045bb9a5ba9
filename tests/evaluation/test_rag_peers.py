"""What LlamaIndex users pick, on the shipped tickets: every peer really runs, and asks the same LLM in its own words."""

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fakes import WordEmbedding
from llama_index.core.prompts import PromptTemplate
from ticket_data import write_tickets

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation import rag_peers
from llama_index_instruct.evaluation.datasets import load_beir
from llama_index_instruct.evaluation.drawing import draw_documents, draw_queries
from llama_index_instruct.evaluation.gold_llm import GoldLLM
from llama_index_instruct.evaluation.indexed import DEPTH, IndexedSet, rows_of
from llama_index_instruct.evaluation.peers import QDRANT_DOCUMENTED, Task, feedback_vector, kl_reference, rank_by
from llama_index_instruct.evaluation.rag_bench import RagBench, bench_rag, gold_llm
from llama_index_instruct.evaluation.rag_peers import RAG_PEERS, PeerInput
from llama_index_instruct.models import load_embed_model, offline_minilm_path
from llama_index_instruct.refinement.retriever import RefinementRetriever
from llama_index_instruct.teacher.judge import RelevanceJudge

QUERIES, JUDGED = 6, 12
ASKING = {
    "HyDE (upper bound)": 1,
    "LLMRerank": 2,
    "StructuredLLMRerank": 2,
    "Qdrant feedback query": JUDGED,
    "released refinement loop": JUDGED,
    "RefinementRetriever": JUDGED,
    "RefinementRetriever, trusted_judge": JUDGED,
    "RefinementRetriever, pin_judged": JUDGED,
}


def vectors_of(data):
    return np.array(WordEmbedding().get_text_embedding_batch(data.documents), dtype=np.float32)


@pytest.fixture(scope="module", params=["all documents", "candidates"])
def given(request, tmp_path_factory):
    root = write_tickets(tmp_path_factory.mktemp("data"), candidates=request.param == "candidates")
    data = draw_queries(load_beir(root / "retrieval" / "tickets"), QUERIES, seed=1)
    with IndexedSet(data, vectors_of(data), WordEmbedding()) as indexed:
        yield PeerInput(indexed, gold_llm(data), judged=JUDGED)


def ranking(given, name, q):
    return rows_of(RAG_PEERS[name](given)(q)).tolist()


def task(given, q):
    """The same query for the peers in numpy."""
    data = given.indexed.data
    pool = np.arange(len(data.documents)) if data.pools is None else data.pools[q]
    relevance = np.isin(pool, data.relevant[q]).astype(float)
    return pool, Task(given.vector(q), given.indexed.vectors[pool], lambda rows: relevance[rows], JUDGED, 2)


def test_one_peer_pins_what_the_judge_approved_of_and_one_trusts_it(given, monkeypatch):
    made = []

    def recorded(*arguments, **settings):
        made.append((settings["pin_judged"], settings["trusted_judge"]))
        return RefinementRetriever(*arguments, **settings)

    monkeypatch.setattr(rag_peers, "RefinementRetriever", recorded)
    for name in ("RefinementRetriever", "RefinementRetriever, trusted_judge", "RefinementRetriever, pin_judged"):
        assert ranking(given, name, 0)
    assert made == [(False, False), (False, True), (True, False)]


@pytest.mark.parametrize("name", ASKING)
def test_each_asks_as_often_as_its_own_prompt_needs(given, name):
    before = given.llm.spent
    found = ranking(given, name, 0)
    assert given.llm.spent.calls - before.calls == ASKING[name]
    assert given.llm.spent.tokens > before.tokens
    assert len(found) == len(set(found)) == DEPTH


@pytest.mark.parametrize("given", ["candidates"], indirect=True)
@pytest.mark.parametrize("name", ["plain", "linear adapter", *ASKING])
def test_none_leaves_the_documents_of_its_query(given, name):
    for q in range(2):
        assert np.isin(ranking(given, name, q), given.indexed.data.pools[q]).all()


@pytest.mark.parametrize("name", ["LLMRerank", "StructuredLLMRerank"])
def test_a_reranker_puts_the_relevant_judged_first_and_everything_else_behind(given, name):
    for q in range(QUERIES):
        plain = ranking(given, "plain", q)
        relevant = given.indexed.data.relevant[q]
        best = [row for row in plain[:JUDGED] if row in relevant]
        assert ranking(given, name, q) == best + [row for row in plain if row not in best]


def test_qdrants_query_ranks_as_its_formula(given):
    pool, same = task(given, 2)
    top = rank_by(same.query, same.documents)[:JUDGED]
    vector = feedback_vector(same.query, same.documents[top], same.teacher(top), QDRANT_DOCUMENTED)
    scores = given.indexed.vectors @ vector
    found = ranking(given, "Qdrant feedback query", 2)
    np.testing.assert_allclose(scores[found], np.sort(scores[pool])[::-1][:DEPTH], atol=1e-5)


def test_the_released_loop_is_that_of_the_peers_in_numpy(given):
    pool, same = task(given, 2)
    vector = kl_reference(same).vector
    scores = given.indexed.vectors @ vector
    found = ranking(given, "released refinement loop", 2)
    np.testing.assert_allclose(scores[found], np.sort(scores[pool])[::-1][:DEPTH], atol=1e-5)


def test_hyde_searches_with_the_query_and_a_relevant_text(given):
    data = given.indexed.data
    written = data.documents[data.relevant[0][0]]
    model = given.indexed.embed_model
    vector = np.array(model.get_agg_embedding_from_queries([written, given.text(0)]))
    np.testing.assert_array_equal(ranking(given, "HyDE (upper bound)", 0), rows_of(given.search(0, vector)))


def test_the_adapter_never_sees_the_query_it_is_scored_on(given, monkeypatch):
    taught = []

    def train(queries, documents):
        taught.append(queries)
        return np.eye(queries.shape[1], dtype=np.float32)

    monkeypatch.setattr(rag_peers, "train_linear_adapter", train)
    assert ranking(given, "linear adapter", 0) == ranking(given, "plain", 0)
    for q in range(QUERIES):
        same = (taught[q % 2] == given.vector(q)).all(axis=1)
        assert not same.any()
        assert (taught[1 - q % 2] == given.vector(q)).all(axis=1).sum() == min(
            JUDGED, len(given.indexed.data.relevant[q])
        )


def test_what_is_not_at_hand_is_left_out_with_a_reason(given):
    for name, word in (
        ("cross-encoder", "--cross-encoder"),
        ("HuggingFaceEmbedding, query_instruction", "not a Hugging"),
    ):
        assert word in RAG_PEERS[name](given).reason


def test_an_instruction_is_written_before_the_query(tmp_path):
    data = draw_documents(draw_queries(load_beir(write_tickets(tmp_path) / "retrieval" / "tickets"), 1, 0), 5, 0)
    model = load_embed_model()
    vectors = np.array(model.get_text_embedding_batch(data.documents), dtype=np.float32)
    with IndexedSet(data, vectors, model) as indexed:
        given = PeerInput(indexed, gold_llm(data))
        hits = RAG_PEERS["HuggingFaceEmbedding, query_instruction"](given)(0)
    asked = np.array(model.get_text_embedding(rag_peers.QUERY_INSTRUCTION + given.text(0)))
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(vectors @ asked)[::-1], atol=1e-4)


def test_a_cross_encoder_reranks_the_first_hits(given, tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(offline_minilm_path())
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **sizes)).save_pretrained(
        tmp_path
    )
    given = PeerInput(given.indexed, given.llm, judged=5, cross_encoder=str(tmp_path))
    plain, found = ranking(given, "plain", 0), ranking(given, "cross-encoder", 0)
    assert sorted(found[:5]) == sorted(plain[:5]) and found[5:] == plain[5:]


def test_wrong_verdicts_are_the_same_in_every_form():
    passages = [f"passage number {i}" for i in range(200)]
    llm = GoldLLM({"a query": passages[:100]}, passages, flip=0.2, seed=3)
    judged = RelevanceJudge(llm).judge("a query", passages)
    right = np.arange(200) < 100
    assert 0.1 < np.mean(judged != right) < 0.3
    ask = partial(
        PromptTemplate("Let's try this now: \n\n{context_str}\nQuestion: {query_str}\nAnswer:\n").format,
        query_str="a query",
    )
    listed = llm.reply(ask(context_str="\n\n".join(f"Document {n}:\n{text}" for n, text in enumerate(passages, 1))))
    assert [int(line.split(",")[0].split()[1]) - 1 for line in listed.splitlines()] == np.flatnonzero(judged).tolist()
    np.testing.assert_array_equal(RelevanceJudge(llm).judge("a query", passages), judged)


@pytest.mark.parametrize(("query", "passage"), [("a query", "a stranger"), ("another", "known"), ("a query", None)])
def test_what_it_was_not_told_about_is_an_error(query, passage):
    llm = GoldLLM({"a query": ["known"]}, ["known"])
    if passage is None:
        with pytest.raises(ConfigurationError, match="RelevanceJudge, StructuredLLMRerank"):
            llm.reply("Tell me a story.")
        return
    assert np.isnan(RelevanceJudge(llm).judge(query, [passage])).all()


def test_answers_that_are_waited_for_together_count_once():
    llm = GoldLLM({"a query": ["known"]}, ["known"], delay=0.2)
    everybody = threading.Barrier(8)
    messages = RelevanceJudge(llm).prompt.messages(query="a query", task="", passage="known")

    def ask():
        everybody.wait()
        llm.chat(messages)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert llm.spent.calls == 8
    assert 0.2 <= llm.waited < 8 * 0.2


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    return load_beir(write_tickets(tmp_path_factory.mktemp("set")) / "retrieval" / "tickets")


def test_the_record(tickets):
    settings = RagBench(queries=QUERIES, judged=JUDGED, timed=1, rounds=1, delay=0.0, token_delay=0.0)
    record = bench_rag([tickets], WordEmbedding(), settings, progress=False)
    found = record["sets"]["tickets"]
    assert found["queries"] == QUERIES and found["documents"] == len(tickets.documents)
    assert set(found["peers"]) | set(found["left_out"]) == set(RAG_PEERS)
    peers = found["peers"]
    assert peers["plain"]["ratio"] == 1.0 and peers["plain"]["calls"] == 0 and peers["plain"]["moved"]["mean"] == 0
    assert {name: peers[name]["calls"] for name in ASKING} == ASKING
    assert peers["RefinementRetriever"]["map@100"] > peers["plain"]["map@100"]
    assert record["means"]["plain"]["map@100"] == peers["plain"]["map@100"]


def test_two_sets_of_one_name_are_refused(tickets):
    with pytest.raises(ConfigurationError, match="different names, found tickets, tickets"):
        bench_rag([tickets, tickets], WordEmbedding(), RagBench(), progress=False)


def test_means_are_over_peers_that_every_set_has(tickets):
    few = replace(draw_queries(tickets, 3, 0), name="few")
    settings = RagBench(peers=("linear adapter", "LLMRerank"), queries=4, timed=0)
    record = bench_rag([tickets, few], WordEmbedding(), settings, progress=False)
    assert list(record["sets"]["few"]["left_out"]) == ["linear adapter"]
    assert list(record["means"]) == ["plain", "LLMRerank"]
    values = [found["peers"]["LLMRerank"]["map@100"] for found in record["sets"].values()]
    assert record["means"]["LLMRerank"]["map@100"] == pytest.approx(np.mean(values), abs=1e-4)


def test_ranks_moved_are_those_of_relevant_documents_in_either_list(tickets, monkeypatch):
    def last_first(given):
        return lambda q: RAG_PEERS["plain"](given)(q)[::-1]

    monkeypatch.setitem(RAG_PEERS, "last first", last_first)
    settings = RagBench(peers=("last first",), queries=3, timed=0)
    moved = bench_rag([tickets], WordEmbedding(), settings, progress=False)["sets"]["tickets"]["peers"]["last first"][
        "moved"
    ]
    expected, data = [], draw_queries(tickets, 3, 0)
    with IndexedSet(data, vectors_of(data), WordEmbedding()) as indexed:
        for q in range(3):
            ranks = (
                np.flatnonzero(np.isin(ranking(PeerInput(indexed, gold_llm(data)), "plain", q), data.relevant[q])) + 1
            )
            expected += (ranks - (DEPTH + 1 - ranks)).tolist()
    assert moved["documents"] == len(expected)
    assert moved["mean"] == pytest.approx(np.mean(expected), abs=0.01)
    np.testing.assert_allclose(moved["quantiles"], np.percentile(expected, (10, 25, 50, 75, 90)), atol=0.05)


def test_drawn_documents_keep_what_is_relevant(tickets):
    few = draw_documents(draw_queries(tickets, 2, 0), 10, 0)
    whole = draw_queries(tickets, 2, 0)
    assert len(few.documents) < len(whole.documents)
    for small, large in zip(few.relevant, whole.relevant, strict=True):
        assert [few.documents[row] for row in small] == [whole.documents[row] for row in large]


@pytest.mark.parametrize(
    "settings", [{"peers": ("magic",)}, {"queries": 0}, {"judged": 1}, {"judged": 101}, {"flip": 2.0}]
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        RagBench(**settings)
