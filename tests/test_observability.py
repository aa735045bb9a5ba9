"""What tracing tools see of each door: spans, their nesting and counts, events; and what they must not see."""

from __future__ import annotations

import asyncio
import logging
import re
import runpy
import sys
import threading
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import BlockingLLM, ScriptedLLM, WordEmbedding
from gstransform.labelling import LabellingLLM, without_sleep
from gstransform.shop import fitted
from inbedder import tiny
from incontext import decoders
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.span import BaseSpan, active_span_id
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from messages import make_nodes
from pydantic import PrivateAttr

from llama_index_instruct import (
    AnswerEmbedding,
    GSTransformEvent,
    GSTransformPostprocessor,
    GSTransformRetriever,
    InBedderEmbedding,
    InContextEmbedding,
    InstructError,
    InstructWarning,
    MetadataLabels,
    MissingExtraError,
    RefinementEvent,
    RefinementRetriever,
    RelevanceJudge,
    fit_gstransform,
    transform_collection,
)
from llama_index_instruct.spans import StageEvent, span
from llama_index_instruct.teacher.standins import as_judge

# In the query, and in every document.
QUERY = "order refund furious"
KEY = "sk-secret"
ASYNC = re.compile(r"\.a(?=retrieve|chat|get_)")
WAYS = pytest.mark.parametrize("way", ["sync", "async"])

REFINED = """
RefinementRetriever.retrieve
  RefinementRetriever.refine
    RefinementRetriever.embed
      WordEmbedding.get_query_embedding
    RefinementRetriever.search
      VectorIndexRetriever.retrieve
    RefinementRetriever.vectors
    RefinementRetriever.words
    RefinementRetriever.select
    RefinementRetriever.judge
      RelevanceJudge.assess
        3 ScriptedLLM.chat
    RefinementRetriever.select
    RefinementRetriever.judge
      RelevanceJudge.assess
        3 ScriptedLLM.chat
    RefinementRetriever.solve
    RefinementRetriever.search_again
      VectorIndexRetriever.retrieve
"""
TRANSFORMED = """
GSTransformRetriever.retrieve
  GSTransform.describe_store
  GSTransform.embed
    WordEmbedding.get_query_embedding
  GSTransform.search
    VectorIndexRetriever.retrieve
  GSTransform.vectors
  GSTransform.transform
"""
RERANKED = """
GSTransformPostprocessor.rerank
  GSTransform.describe_store
  GSTransform.embed
    WordEmbedding.get_query_embedding
  GSTransform.vectors
  GSTransform.transform
"""
FITTED = """
fit_gstransform
  fit_gstransform.sample
  fit_gstransform.probe
    WordEmbedding.get_text_embedding_batch
  fit_gstransform.label
    Asker.summarising
      60 LabellingLLM.chat
    WordEmbedding.get_text_embedding_batch
    Asker.naming_clusters
      6 LabellingLLM.chat
    WordEmbedding.get_text_embedding_batch
    Asker.classifying
      60 LabellingLLM.chat
    Asker.classifying_again
  fit_gstransform.fit
"""
MIGRATED = """
transform_collection
  transform_collection.write
  transform_collection.verify
"""
ANSWERED = """
AnswerEmbedding.get_text_embedding_batch
  Asker.answers
    3 LabellingLLM.chat
  WordEmbedding.get_text_embedding_batch
"""


class Trace(BaseSpanHandler[BaseSpan]):
    """All spans, in the order they were opened, and all events."""

    _lock_all: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _spans: dict = PrivateAttr(default_factory=dict)
    _events: list = PrivateAttr(default_factory=list)

    def new_span(self, id_, bound_args, instance=None, parent_span_id=None, tags=None, **_):
        with self._lock_all:
            self._spans[id_] = {"parent": parent_span_id, "given": dict(bound_args.arguments), "tags": tags}
        return BaseSpan(id_=id_, parent_id=parent_span_id)

    def prepare_to_exit_span(self, id_, bound_args, instance=None, result=None, **_):
        self._spans[id_]["result"] = result
        return self.open_spans[id_]

    def prepare_to_drop_span(self, id_, bound_args, instance=None, err=None, **_):
        self._spans[id_]["error"] = err
        return self.open_spans[id_]

    def children(self, parent):
        """Public spans below one; LlamaIndex's private ones give place to theirs."""
        for id_, each in self._spans.items():
            if each["parent"] == parent:
                yield from self.children(id_) if "._" in id_ else [id_]

    def outline(self, parent=None, depth=0):
        """Names, indented, without an async ``a``; calls that run at the same time in one line."""
        lines = []
        found = [(ASYNC.sub(".", name_of(id_)), id_) for id_ in self.children(parent)]
        calls = Counter(name for name, _ in found if name.endswith("LLM.chat"))
        for name, id_ in found:
            if name in calls:
                lines += ["  " * depth + f"{calls[name]} {name}"] if calls[name] else []
                calls[name] = 0
            elif (line := "  " * depth + name) not in lines[-1:]:
                lines += [line, *self.outline(id_, depth + 1)]
        return lines if depth else "\n" + "\n".join(lines) + "\n"

    def results(self, name):
        return [each["result"] for id_, each in self._spans.items() if name_of(id_) == name]

    def errors(self):
        return {name_of(id_): str(each["error"]) for id_, each in self._spans.items() if "error" in each}

    def events(self, *kinds):
        return [event for event in self._events if isinstance(event, kinds)]

    def place(self, event):
        return name_of(event.span_id)

    def told(self):
        """Everything of ours, as text."""
        events = [
            event.model_dump() for event in self._events if type(event).__module__.startswith("llama_index_instruct.")
        ]
        return "\n".join(map(repr, [*self._spans.items(), *events]))


class _Listener(BaseEventHandler):
    _heard: list = PrivateAttr(default_factory=list)

    def handle(self, event, **_):
        self._heard.append(event)


def name_of(span_id):
    return span_id.split("-")[0]


@contextmanager
def traced(spans_of="root"):
    """Record what happens inside; ``spans_of`` a dispatcher, root for all."""
    trace, listener = Trace(), _Listener()
    trace._events = listener._heard
    dispatcher, root = get_dispatcher(spans_of), get_dispatcher()
    dispatcher.add_span_handler(trace)
    root.add_event_handler(listener)
    try:
        yield trace
    finally:
        dispatcher.span_handlers.remove(trace)
        root.event_handlers.remove(listener)


def furious(passage):
    return 0.9 if "furious" in passage else 0.1


async def retrieved(retriever, way):
    return retriever.retrieve(QUERY) if way == "sync" else await retriever.aretrieve(QUERY)


async def reranked(postprocessor, way, hits):
    if way == "sync":
        return postprocessor.postprocess_nodes(hits, query_str=QUERY)
    return await postprocessor.apostprocess_nodes(hits, query_str=QUERY)


async def embedded(model, way, texts):
    return model.get_text_embedding_batch(texts) if way == "sync" else await model.aget_text_embedding_batch(texts)


def fit(index, llm, **changes):
    settings = {"instruction": "Which mood?", "embed_model": WordEmbedding(), "sample": 60, "clusters": 6}
    return fit_gstransform(index, llm=llm, **{**settings, **changes})


def answering(llm=None, **settings):
    llm = llm or LabellingLLM(rule=lambda kind, text: "Answer: furious", usage={"prompt_tokens": 30})
    return AnswerEmbedding(llm, WordEmbedding(), "Which mood?", **settings)


# Spans, their nesting and counts


@WAYS
async def test_a_refined_retrieve(wire_index, way):
    retriever = RefinementRetriever(wire_index, llm=ScriptedLLM(rule=furious), judged=6)
    with traced() as trace:
        hits = await retrieved(retriever, way)
    assert trace.outline() == REFINED
    assert [result["hits"] for result in trace.results("RefinementRetriever.search")] == [90]
    assert trace.results("RefinementRetriever.search_again") == [{"hits": len(hits)}]
    assert trace.results("RefinementRetriever.vectors") == [{"nodes": 90, "found": 90}]
    assert trace.results("RefinementRetriever.words") == [{"passages": 90}]
    assert trace.results("RefinementRetriever.select") == [
        {"round": 1, "selected": 3},
        {"round": 2, "selected": 3},
    ]
    for told in trace.results("RelevanceJudge.assess"):
        expected = {"passages": 3, "judged": 3, "calls": 3, "prompt_tokens": 300, "completion_tokens": 3, "tokens": 303}
        assert told.items() >= expected.items()
    (solved,), (refined,) = trace.results("RefinementRetriever.solve"), trace.results("RefinementRetriever.refine")
    assert solved.items() >= {"judgements": 6, "method": "logistic", "moved": True}.items()
    assert refined == {"changed": True, "angle": solved["angle"], "judgements": 6, "calls": 6, "tokens": 606}


@WAYS
async def test_a_transformed_retrieve(wire_index, fake_qdrant, way):
    retriever = GSTransformRetriever(wire_index, transform=fitted(fake_qdrant.local), similarity_top_k=5)
    with traced() as trace:
        await retrieved(retriever, way)
    assert trace.outline() == TRANSFORMED
    assert trace.results("GSTransform.search") == [{"hits": 15}]
    assert trace.results("GSTransform.transform") == [{"nodes": 15, "missing": 0}]
    (event,) = trace.events(GSTransformEvent)
    assert event.nodes == 15 and trace.place(event) in (
        "GSTransformRetriever._retrieve",
        "GSTransformRetriever.aretrieve",
    )


@WAYS
async def test_a_transformed_ranking(wire_index, fake_qdrant, way):
    rerank = GSTransformPostprocessor(
        fitted(fake_qdrant.local), vector_store=wire_index.vector_store, embed_model=WordEmbedding(), top_n=5
    )
    hits = wire_index.as_retriever(similarity_top_k=20).retrieve(QUERY)
    with traced() as trace, pytest.warns(InstructWarning):
        await reranked(rerank, way, [*hits, NodeWithScore(node=TextNode(text="new"))])
    assert trace.outline() == RERANKED
    assert trace.results("GSTransformPostprocessor.rerank") == [{"nodes": 21, "ranked": 5}]
    assert trace.results("GSTransform.transform") == [{"nodes": 20, "missing": 1}]
    events = trace.events(ReRankStartEvent, GSTransformEvent, ReRankEndEvent)
    assert [type(event) for event in events] == [ReRankStartEvent, GSTransformEvent, ReRankEndEvent]
    assert {trace.place(event) for event in events} == {"GSTransformPostprocessor.rerank"}


def test_a_fit(index):
    llm = LabellingLLM(usage={"prompt_tokens": 50, "completion_tokens": 2})
    with traced() as trace:
        fit(index, llm, unlabelled=20)
    assert trace.outline() == FITTED
    assert trace.results("fit_gstransform.sample") == [{"texts": 60, "unlabelled": 20}]
    (summarised,), (labelled,) = trace.results("Asker.summarising"), trace.results("fit_gstransform.label")
    assert summarised.items() >= {"questions": 60, "answered": 60, "calls": 60, "tokens": 60 * 52}.items()
    expected = {"source": "llm", "texts": 60, "labelled": 60, "categories": 3, "calls": 126, "tokens": 126 * 52}
    assert labelled.items() >= expected.items()
    assert trace.results("fit_gstransform") == [{"method": "ridge", "texts": 60, "labelled": 60, "classes": 3}]


def test_a_migrated_collection(index, memory_client):
    transform = fitted(memory_client)
    with traced() as trace:
        transform_collection(memory_client, "shop", "by-mood", transform, progress=False)
    assert trace.outline() == MIGRATED
    assert trace.results("transform_collection.write") == [{"transformed": 90, "without_vector": 0}]
    expected = {"transformed": 90, "without_vector": 0, "resumed": False, "complete": True}
    assert trace.results("transform_collection") == [expected]


@WAYS
@pytest.mark.parametrize(
    "llm", [ScriptedLLM(rule=furious), BlockingLLM(rule=lambda _: "yes")], ids=["chat", "blocking"]
)
async def test_calls_in_other_threads_are_below_the_judge(way, llm):
    judge, passages = RelevanceJudge(llm, workers=3), [f"furious {i}" for i in range(5)]
    with traced() as trace, span("app"):
        assert len(judge.judge("a", passages) if way == "sync" else await judge.ajudge("a", passages)) == 5
    (app,) = trace.children(None)
    (assess,) = trace.children(app)
    calls = {name_of(each) for each in trace.children(assess)}
    assert name_of(assess) == "RelevanceJudge.assess" and len(list(trace.children(assess))) == 5
    assert calls <= {"ScriptedLLM.chat", "ScriptedLLM.achat", "BlockingLLM.complete"}


@WAYS
@pytest.mark.parametrize(
    ("judge", "name"),
    [
        (lambda query, passages: [float("nan"), 1.0, 0.5], "CallableJudge.assess"),
        (SimilarityPostprocessor(similarity_cutoff=0.0), "PostprocessorJudge.assess"),
    ],
)
async def test_other_judges_have_the_same_span(way, judge, name):
    nodes = make_nodes()[:3]
    judged = as_judge(judge)
    with traced() as trace:
        said = judged.assess(QUERY, nodes) if way == "sync" else await judged.aassess(QUERY, nodes)
    (told,) = trace.results(name)
    assert told.items() >= {"passages": 3, "judged": int(np.isfinite(said.relevance).sum()), "calls": 1}.items()


@WAYS
async def test_answers_that_are_embedded(way):
    with traced() as trace:
        await embedded(answering(), way, ["a", "b", "c"])
    assert trace.outline() == ANSWERED
    (told,) = trace.results("Asker.answers")
    assert told.items() >= {"questions": 3, "answered": 3, "calls": 3, "tokens": 90}.items()


@WAYS
@pytest.mark.parametrize("room", ["inbedder", "incontext"])
async def test_a_query_is_embedded_in_one_span_with_one_event(room, way, tmp_path):
    model = small_model(room, tmp_path)
    with traced() as trace:
        vector = model.get_query_embedding("ok") if way == "sync" else await model.aget_query_embedding("ok")
    assert trace.outline() == f"\n{type(model).__name__}.get_query_embedding\n"
    (event,) = trace.events(EmbeddingEndEvent)
    assert event.embeddings == [vector]


def small_model(room, folder):
    settings = {"dtype": "float32", "device": "cpu"}
    if room == "inbedder":
        return InBedderEmbedding(str(tiny.save("opt", folder)), tiny.FEELING, max_new_tokens=3, **settings)
    return InContextEmbedding(str(decoders.save("opt", folder)), decoders.TOPIC, **settings)


def test_what_llamaindex_does_not_know_has_spans_of_its_own(tmp_path):
    inbedder, incontext = (small_model(room, tmp_path / room) for room in ("inbedder", "incontext"))
    with traced() as trace:
        inbedder.centered_on(["ok", "order"])
        inbedder.answer(["ok", "order", "refund"])
        incontext.get_query_embeddings(["ok", "order"])
    assert trace.results("InBedderEmbedding.centered_on") == [{"texts": 2, "instructions": 1}]
    assert trace.results("InBedderEmbedding.answer") == [{"texts": 3}]
    assert trace.results("InContextEmbedding.get_query_embeddings") == [{"queries": 2}]


@pytest.mark.parametrize("room", ["inbedder", "incontext"])
def test_settings_open_no_span(room, tmp_path):
    model = small_model(room, tmp_path)
    with traced() as trace:
        other = model.with_instruction("Which?") if room == "inbedder" else model.with_task("Find it.")
        other.normalize = False
        small_model(room, tmp_path)
    assert not trace._spans


# Events


def test_each_span_ends_with_an_event_inside_it(index):
    with traced("llama_index_instruct.spans") as trace:
        RefinementRetriever(index, judge=as_judge(lambda query, passages: list(map(furious, passages)))).retrieve(QUERY)
    ended = trace.events(StageEvent)
    assert Counter(event.span_id for event in ended) == Counter(list(trace._spans))
    for event in ended:
        assert event.stage == trace.place(event) and event.ms >= 0.0 and not event.error
        assert event.counts == trace._spans[event.span_id]["result"]
    (whole,) = (event for event in ended if event.stage == "RefinementRetriever.refine")
    (refined,) = trace.events(RefinementEvent)
    assert refined.span_id == whole.span_id and sum(refined.ms.values()) <= whole.ms


def test_an_applications_tags_are_on_every_span(index):
    with traced("llama_index_instruct.spans") as trace, instrument_tags({"user": "7"}):
        RelevanceJudge(ScriptedLLM(rule=furious)).judge("a", ["b"])
    assert [each["tags"] for each in trace._spans.values()] == [{"user": "7"}]
    assert trace.events(StageEvent)[0].tags == {"user": "7"}


# Trouble


class Failing(WordEmbedding):
    def _vector(self, text):
        raise RuntimeError(f"{KEY} could not embed {text}")


def test_a_stage_that_fails_is_told_by_the_name_of_its_exception(index):
    with traced("llama_index_instruct.spans") as trace, pytest.raises(RuntimeError, match=KEY):
        RefinementRetriever(index, judge=furious, embed_model=Failing()).retrieve(QUERY)
    names = ("RefinementRetriever.embed", "RefinementRetriever.refine")
    assert trace.errors() == dict.fromkeys(names, "RuntimeError")
    assert [(event.stage, event.error) for event in trace.events(StageEvent)] == [
        (name, "RuntimeError") for name in names
    ]


async def test_a_cancelled_retrieve_leaves_no_span_open(wire_index):
    asked = asyncio.Event()

    async def never(query, passages):
        asked.set()
        await asyncio.Event().wait()

    with traced() as trace, span("app"):
        before = active_span_id.get()
        task = asyncio.ensure_future(RefinementRetriever(wire_index, judge=never).aretrieve(QUERY))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert active_span_id.get() == before and list(trace.open_spans) == [before]
    assert {"RefinementRetriever.judge", "CallableJudge.assess"} <= trace.errors().keys()


def test_a_judge_beyond_its_deadline(index):
    released = threading.Event()
    llm = BlockingLLM(rule=lambda _: "yes" if released.wait(30) else "no")
    retriever = RefinementRetriever(index, llm=llm, judged=2, rounds=1, judge_deadline=0.05)
    with traced() as trace, pytest.warns(InstructWarning, match="deadline"):
        retriever.retrieve(QUERY)
    released.set()
    (told,) = trace.results("RelevanceJudge.assess")
    expected = {"judged": 0, "failures": 2, "trouble": "deadline: 2 judgements were not in by the deadline"}
    assert told.items() >= expected.items()
    assert [refined["changed"] for refined in trace.results("RefinementRetriever.refine")] == [False]


# Secrets: the key, and what every document and the query hold


def at_work(shop):
    return [
        lambda: RefinementRetriever(shop.index, llm=shop.llm, judged=6).retrieve(QUERY),
        lambda: RelevanceJudge(shop.llm, task=QUERY).judge(QUERY, [QUERY, "b"]),
        lambda: GSTransformRetriever(shop.index, transform=shop.transform).retrieve(QUERY),
        lambda: shop.postprocessor.postprocess_nodes(shop.hits, query_str=QUERY),
        lambda: fit(shop.index, LabellingLLM()),
        lambda: fit(shop.index, None, labels=MetadataLabels("mood")),
        lambda: transform_collection(shop.client, "shop", "new", shop.transform, progress=False),
        lambda: answering().answer([QUERY]),
    ]


def in_trouble(shop):
    def quoting(kind, text):
        return RuntimeError(f"{KEY} {text}")

    unanswered = answering(LabellingLLM(rule=quoting), retries=0, patience=0.0)
    # The store is empty, so hits are encoded again, by a model whose exceptions quote.
    encoding = {"embed_model": unanswered, "vector_store": SimpleVectorStore(), "encode_missing": True}
    given = QueryBundle(QUERY, embedding=WordEmbedding().get_query_embedding(QUERY))
    return [
        lambda: RefinementRetriever(shop.index, llm=shop.llm, judged=6).retrieve(QUERY),
        lambda: RefinementRetriever(shop.index, judge=furious, embed_model=Failing()).retrieve(QUERY),
        lambda: RefinementRetriever(shop.index, judge=furious, **encoding).retrieve(given),
        lambda: GSTransformRetriever(shop.index, transform=shop.transform, **encoding).retrieve(given),
        lambda: GSTransformPostprocessor(shop.transform, embed_model=Failing()).postprocess_nodes(
            shop.hits, query_str=QUERY
        ),
        lambda: fit(shop.index, LabellingLLM(rule=quoting)),
        lambda: unanswered.answer([QUERY]),
    ]


@pytest.mark.parametrize(("doors", "mode"), [(at_work, "ok"), (in_trouble, "500"), (in_trouble, "401")])
def test_f40_traces_and_log_hold_no_text_and_no_key(
    index, memory_client, wire_llm, fake_openai, monkeypatch, caplog, doors, mode
):
    without_sleep(monkeypatch)
    fake_openai.mode = mode
    transform = fitted(memory_client)
    shop = SimpleNamespace(
        index=index,
        client=memory_client,
        llm=wire_llm,
        transform=transform,
        hits=index.as_retriever(similarity_top_k=20).retrieve(QUERY),
        postprocessor=GSTransformPostprocessor(transform, vector_store=index.vector_store, embed_model=WordEmbedding()),
    )
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with traced("llama_index_instruct.spans") as trace:
            for door in doors(shop):
                seen = len(trace._spans)
                with suppress(RuntimeError, InstructError):
                    door()
                assert len(trace._spans) > seen
    told = trace.told() + caplog.text + "\n".join(str(each.message) for each in warned)
    assert not re.findall(f".*({KEY}|refund).*", told)
    assert bool(trace.errors()) == (doors is in_trouble)


# The example


def test_the_example_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_index.observability.otel", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llama-index-instruct\[otel\]'"):
        runpy.run_path(str(Path(__file__).parents[1] / "examples" / "trace_on_console.py"), run_name="__main__")
