"""F28 to F30, F39 and F40: many at once, cancellation, event loops, restarts, and what is said aloud."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from doors import DOORS, QUERY, TOP_K, WAYS, ask, door_of, furious, hits_of, plain, refining, reranking
from fakes import ScriptedLLM, WordEmbedding
from faulty_server import SECRET
from gstransform.shop import OtherWords, fitted, recorded, same, simple_index
from llama_index.llms.openai_like import OpenAILike

from llama_index_instruct import (
    GSTransformPostprocessor,
    InstructWarning,
    RefinementRetriever,
    RelevanceJudge,
)
from llama_index_instruct.gstransform.fingerprint import fingerprint

QUERIES = ("order refund printer", "order refund watch")


@pytest.mark.parametrize("way", WAYS)
async def test_f28_two_retrieves_through_one_retriever(shop, way):
    """Both are in the middle of judging at the same time; neither sees anything of the other."""
    serial = [await ask(refining(shop), "sync", query=query) for query in QUERIES]
    both_here = threading.Barrier(2)

    def judge(query, passages):
        both_here.wait(20)
        return furious(query, passages)

    door = refining(shop, judge=judge, judge_deadline=None)
    before = dict(vars(door))
    if way == "sync":
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(door.refine, QUERIES))
    else:
        found = await asyncio.gather(*map(door.arefine, QUERIES))
    for one, other in zip(found, serial, strict=True):
        same(one.nodes, other.nodes)
        assert one.judgements == other.judgements
    assert vars(door) == before


@pytest.mark.parametrize("way", WAYS)
async def test_f28_no_more_questions_at_a_time_than_workers(shop, way):
    llm = ScriptedLLM(rule=lambda passage: 0.9 if "furious" in passage else 0.1, latency=0.01)
    door = refining(shop, judge=RelevanceJudge(llm, workers=3))
    if way == "sync":
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(door.refine, 2 * QUERIES))
    else:
        await asyncio.gather(*map(door.arefine, 2 * QUERIES))
    assert llm.most_at_once <= 3 and len(llm.prompts) == 80


def open_connections(client):
    return [connection for connection in client._transport._pool.connections if not connection.is_idle()]


async def test_f29_the_caller_gives_up_on_a_hanging_teacher(shop, server, new_teacher):
    """The cancellation comes through at once and leaves no task, no question and no open connection."""
    teacher = new_teacher()
    all_here = threading.Event()

    def hanging(passage, before):
        if len(server.passages) >= 2:
            all_here.set()
        return "hang"

    server.judging = hanging
    server.forget()
    door = refining(shop, judge=RelevanceJudge(teacher, workers=2), judge_deadline=None)
    task = asyncio.ensure_future(door.arefine(QUERY))
    while not all_here.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    server.released.set()
    await asyncio.sleep(0.1)
    assert len(server.passages) == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_connections(teacher._async_http_client) == []


@pytest.mark.parametrize(("way", "stop"), [("sync", MemoryError), ("async", MemoryError), ("sync", KeyboardInterrupt)])
async def test_f29_what_must_stop_everything_is_not_swallowed(shop, way, stop):
    def judge(query, passages):
        raise stop

    with pytest.raises(stop):
        await ask(refining(shop, judge=judge), way)


@pytest.mark.parametrize("judge", [furious, None], ids=["function", "coroutine"])
async def test_f30_a_sync_call_inside_a_running_loop(shop, mood, judge):
    async def coroutine(query, passages):
        await asyncio.sleep(0)
        return furious(query, passages)

    assert (await ask(refining(shop, judge=judge or coroutine), "sync")).changed
    hits = plain(shop).retrieve(QUERY)
    for name in DOORS:
        assert len(hits_of(await ask(door_of(name, shop, mood), "sync", hits=hits))) == TOP_K


async def test_f30_async_without_an_async_client(shop, mood):
    """Those that must search say what is missing; the postprocessor leaves the hits as they are and says so."""
    hits = plain(shop).retrieve(QUERY)
    shop.vector_store._aclient = None
    for name in ("refining", "searching"):
        with pytest.raises(ValueError, match=r"aclient|AsyncQdrantClient"):
            await asyncio.wait_for(ask(door_of(name, shop, mood), "async"), 20)
    with pytest.warns(InstructWarning, match="AsyncQdrantClient") as caught:
        same(await ask(reranking(shop, mood), "async", hits=hits), hits)
    assert len(caught) == 1


def yes_to_furious(passage):
    return 0.9 if "furious" in passage else 0.1


COPIES = {"pickle": lambda one: pickle.loads(pickle.dumps(one)), "deepcopy": copy.deepcopy, "copy": copy.copy}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("judge", ["function", "LLM"])
def test_f39_a_copied_retriever_answers_alike(way, judge):
    keyed = OpenAILike(model="m", api_base="http://127.0.0.1:9", api_key=SECRET)
    teacher = {"judge": furious} if judge == "function" else {"llm": keyed}
    door = RefinementRetriever(plain(simple_index()), **teacher)
    twin = COPIES[way](door)
    if judge == "LLM":
        door.judge, twin.judge = (RelevanceJudge(ScriptedLLM(rule=yes_to_furious)) for _ in range(2))
    same(twin.retrieve(QUERY), door.retrieve(QUERY))


def test_f39_a_postprocessor_comes_back_from_its_dictionary(shop, mood, tmp_path):
    mood.save_pretrained(tmp_path)
    hits = plain(shop).retrieve(QUERY)
    door = reranking(shop, str(tmp_path))
    saved = json.dumps(door.to_dict())
    back = GSTransformPostprocessor.from_dict(
        json.loads(saved), vector_store=shop.vector_store, embed_model=WordEmbedding()
    )
    same(back.postprocess_nodes(hits, query_str=QUERY), door.postprocess_nodes(hits, query_str=QUERY))
    assert SECRET not in saved and "key" not in saved


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("way", WAYS)
async def test_f40_what_is_said_holds_no_text_and_no_key(shop, mood, server, teacher, caplog, name, way):
    caplog.set_level(logging.INFO, logger="llama_index_instruct")
    hits = plain(shop).retrieve(QUERY)
    settings = {"llm": teacher} if name == "refining" else {}
    server.judging = lambda passage, before: "500"
    server.storing = lambda operation, before: "ok" if name == "refining" or operation != "fetch" else "500"
    with recorded() as said:
        await ask(door_of(name, shop, mood, **settings), way, query=f"{QUERY} private", hits=hits)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("llama_index_instruct")]
    assert len(said) == 1
    assert not any(word in line for line in [*said, *ours] for word in (SECRET, "private", "refund", "furious"))


@pytest.mark.parametrize("way", WAYS)
async def test_f40_a_lost_vector_and_a_broken_judge_make_one_warning(shop, server, way):
    victim = plain(shop).retrieve(QUERY)[0].node.node_id

    def losing(operation, before):
        if operation == "fetch":
            server.qdrant.local.delete("shop", [victim])
        return "ok"

    server.storing = losing
    with recorded() as said:
        trace = await ask(refining(shop, judge=lambda query, passages: passages[1000]), way)
    assert len(said) == 1 and "IndexError" in said[0] and not trace.changed


@pytest.mark.parametrize("name", ["searching", "reranking"])
@pytest.mark.parametrize("way", WAYS)
async def test_f40_another_model_is_told_of_once_and_a_failed_fetch_each_time(shop, server, name, way):
    hits = plain(shop).retrieve(QUERY)
    marked = fitted(server.qdrant.local, embed_model="words", fingerprint=fingerprint(WordEmbedding()))
    door = door_of(name, shop, marked, embed_model=OtherWords(), allow_other_model=True)
    with recorded() as said:
        await ask(door, way, hits=hits)
    assert len(said) == 1 and "embeds differently" in said[0]
    server.storing = lambda operation, before: "500" if operation == "fetch" else "ok"
    for _ in range(2):
        with recorded() as said:
            await ask(door, way, hits=hits)
        assert len(said) == 1 and "embeds differently" not in said[0]
