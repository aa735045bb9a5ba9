"""F1 to F8: the teacher hangs, fails, refuses, mumbles or changes its mind."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import openai
import pytest
from doors import WAYS, ask, plain, refining
from fakes import BlockingLLM, ScriptedLLM
from fallback import assert_falls_back
from gstransform.shop import plain_of, recorded, same
from hypothesis import given
from hypothesis import strategies as st

from llama_index_instruct import RelevanceJudge, refine_query
from llama_index_instruct.teacher.parsing import parse_yes_no

# The second round is not asked for when the first brought nothing.
FIRST_ROUND = 10


@pytest.fixture
def unrefined(shop):
    return plain(shop).retrieve("order refund printer")


def always(mode):
    return lambda passage, before: mode


async def test_f01_teacher_hangs(shop, server, new_teacher, unrefined):
    server.judging = always("hang")
    door = refining(shop, llm=new_teacher(timeout=60.0, max_retries=3), judge_deadline=0.3)
    await assert_falls_back(door, unrefined, "deadline", server=server, calls=FIRST_ROUND)


async def test_f01_teacher_without_async_hangs(shop, unrefined):
    released = threading.Event()
    door = refining(shop, llm=BlockingLLM(rule=lambda passage: released.wait(60) and "yes"), judge_deadline=0.3)
    await assert_falls_back(door, unrefined, "deadline")
    released.set()


# Told to come back in five minutes, openai gives up at once; before 2.52 it asked again after a second.
LATER = 1 if tuple(map(int, openai.__version__.split(".")[:2])) >= (2, 52) else 2


@pytest.mark.parametrize(("mode", "requests"), [("429", 2), ("429 bare", 2), ("429 later", LATER)])
async def test_f02_rate_limited_for_ever(shop, server, new_teacher, unrefined, mode, requests):
    server.judging = always(mode)
    door = refining(shop, llm=new_teacher(max_retries=1))
    await assert_falls_back(door, unrefined, "failure", server=server, calls=requests * FIRST_ROUND)


@pytest.mark.parametrize("way", WAYS)
async def test_f02_rate_limited_once(shop, server, new_teacher, way):
    server.judging = lambda passage, before: "ok" if before else "429"
    with recorded() as said:
        trace = await ask(refining(shop, llm=new_teacher(max_retries=1)), way)
    assert trace.changed and trace.usage.failures == 0 and not said
    assert all(server.passages.count(passage) == 2 for passage in server.passages)


@pytest.mark.parametrize("way", WAYS)
async def test_f02_the_labels_in_hand_are_used(shop, server, teacher, way):
    server.judging = lambda passage, before: "429" if passage.endswith(("0", "3")) else "ok"
    with recorded() as said:
        trace = await ask(refining(shop, llm=teacher), way)
    assert trace.changed and not said
    assert 0 < trace.usage.failures < len(trace.judgements) and "RateLimitError" in trace.trouble


@pytest.mark.parametrize("mode", ["500", "cut", "closed", "html", "bad json", "no choices", "error 200"])
async def test_f03_broken_answers(shop, server, teacher, unrefined, mode):
    server.judging = always(mode)
    await assert_falls_back(refining(shop, llm=teacher), unrefined, "failure", server=server, calls=FIRST_ROUND)


@pytest.mark.parametrize("mode", ["400", "401"])
async def test_f04_wrong_key_or_request(shop, server, teacher, unrefined, mode):
    server.judging = always(mode)
    door = refining(shop, judge=RelevanceJudge(teacher, workers=3))
    await assert_falls_back(door, unrefined, "configuration", server=server, calls=3)


@pytest.mark.parametrize("mode", ["empty", "null", "refusal", "prose"])
async def test_f05_answers_that_say_nothing(shop, server, teacher, unrefined, mode):
    server.judging = always(mode)
    await assert_falls_back(refining(shop, llm=teacher), unrefined, "unreadable", server=server, calls=FIRST_ROUND)


@pytest.mark.parametrize("words", ["yes and no", "ja", "ye", "\u2003"])
async def test_f05_ambiguous_words(shop, unrefined, words):
    door = refining(shop, llm=ScriptedLLM(rule=lambda passage: words))
    await assert_falls_back(door, unrefined, "unreadable")


@pytest.mark.parametrize(
    ("yes", "no"), [("Yes.", "NO!"), ("\u00a0yes\u2003", "**no**"), ("Answer: YES", "no - wrong thing")]
)
@pytest.mark.parametrize("way", WAYS)
async def test_f05_clear_words(shop, way, yes, no):
    trace = await ask(refining(shop, llm=ScriptedLLM(rule=lambda p: yes if "furious" in p else no)), way)
    assert trace.changed and {judged.relevance for judged in trace.judgements} == {0.0, 1.0}


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_f05_any_reply_is_yes_no_or_none(reply):
    assert parse_yes_no(reply) in (True, False, None)


def test_f05_a_passage_without_a_label_has_no_weight():
    query, *passages = np.random.default_rng(0).normal(size=(5, 8))
    with_it = refine_query(query, np.array(passages), [0.9, 0.1, math.nan, 0.8])
    without = refine_query(query, np.delete(passages, 2, axis=0), [0.9, 0.1, 0.8])
    assert with_it.moved
    np.testing.assert_allclose(with_it.vector, without.vector, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("way", WAYS)
async def test_f06_all_yes_or_all_no(shop, unrefined, level, way):
    with recorded() as said:
        trace = await ask(refining(shop, llm=ScriptedLLM(rule=lambda passage: level)), way)
    same(trace.nodes, unrefined)
    np.testing.assert_array_equal(trace.refined_vector, trace.query_vector)
    assert not said and not trace.changed and "no difference" in trace.reason and trace.trouble is None


@pytest.mark.parametrize("way", WAYS)
async def test_f07_one_judgement_fails(shop, server, teacher, way):
    failed = plain_of(shop, "order refund printer")[3].node
    server.judging = lambda passage, before: "500" if passage == failed.text else "ok"
    with recorded() as said:
        trace = await ask(refining(shop, llm=teacher), way)
    assert trace.changed and trace.usage.failures == 1 and not said
    assert [j.node_id for j in trace.judgements if math.isnan(j.relevance)] == [failed.node_id]
    assert "1 judgements failed" in trace.trouble


@pytest.mark.parametrize("way", WAYS)
async def test_f08_a_teacher_that_changes_its_mind(shop, way):
    """What was said is in the trace, and saying it again gives the very same ranking."""
    moods = itertools.cycle([0.9, 0.2, 0.6])
    first = await ask(refining(shop, judge=lambda query, passages: [next(moods) for _ in passages]), way)
    said = {judged.node_id: judged.relevance for judged in first.judgements}
    by_text = {
        hit.node.text: said[hit.node.node_id]
        for hit in plain_of(shop, similarity_top_k=100)
        if hit.node.node_id in said
    }
    again = await ask(refining(shop, judge=lambda query, passages: [by_text[passage] for passage in passages]), way)
    assert first.changed and again.judgements == first.judgements
    np.testing.assert_allclose(again.refined_vector, first.refined_vector, atol=1e-6)
    same(again.nodes, first.nodes)
