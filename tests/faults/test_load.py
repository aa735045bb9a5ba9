"""Hundreds of refined retrieves with a judge that keeps failing: nothing lost, nothing left behind."""

from __future__ import annotations

import gc

import pytest
from fakes import ScriptedLLM

from llama_index_instruct import RefinementRetriever
from llama_index_instruct.evaluation.load_run import Faults, Findings, run_load
from llama_index_instruct.evaluation.numbers import TOP_K

RETRIEVES = 160


@pytest.fixture(scope="module")
def record():
    gc.collect()  # what earlier tests left open is not this run's
    return run_load(retrieves=RETRIEVES, failure_rate=0.02, documents=200, dimension=32, at_once=4, points=4)


def test_no_hit_is_lost_and_none_comes_twice(record):
    assert (record["lost"], record["duplicated"], record["errors"]) == (0, 0, {})


def test_a_failed_judgement_is_survived_and_a_failed_judge_gives_the_plain_ranking(record):
    calls, failed = record["calls"], record["failed_calls"]
    assert calls["llm"] == 20 * RETRIEVES // 2 and failed["llm"] == calls["llm"] // 50 > 30
    assert record["fallbacks"] == failed["function"] == calls["function"] // 50 > 2
    assert record["refined"] == RETRIEVES - record["fallbacks"] and record["fallbacks_unlike_plain"] == 0


def test_each_fallback_warns_once_and_nothing_else_does(record):
    assert record["warnings"] == {"InstructWarning": record["fallbacks"]}


def test_nothing_stays_behind(record):
    growth = record["growth"]
    assert [point["retrieves"] for point in record["points"]] == [0, 40, 80, 120, 160]
    assert growth["threads"] <= 0
    assert growth["open_files"] is None or growth["open_files"] <= 0
    # What each of the 120 retrieves makes is a hundred times as much: nodes, judgements, a trace.
    assert growth["objects"] < RETRIEVES // 4
    assert growth["resident_mb"] is None or growth["resident_mb"] < 20


def test_as_many_calls_fail_as_said():
    for rate in (0.0, 0.02, 0.3, 1.0):
        faults, raised = Faults(rate), 0
        for _ in range(200):
            try:
                faults.strike()
            except ConnectionError:
                raised += 1
        assert raised == faults.failed == round(200 * rate) and faults.calls == 200


def test_what_is_lost_doubled_or_unlike_the_plain_ranking_is_counted(index):
    plain = index.as_retriever(similarity_top_k=TOP_K).retrieve("order refund printer")
    for hits, found in (
        (plain, (0, 0, 0, 0)),
        (plain[:-2], (2, 0, 1, 1)),
        ([*plain[:-1], plain[0]], (1, 1, 1, 1)),
        ([*plain, plain[0]], (0, 1, 1, 1)),
        (plain[::-1], (0, 0, 1, 1)),
        ([], (TOP_K, 0, 1, 1)),
    ):
        findings = Findings()
        findings.look_at(hits, plain, judge_failed=True)
        assert (findings.lost, findings.duplicated, findings.refined, findings.unlike_plain) == found


def test_an_llm_with_a_callback_manager_of_its_own_does_not_remember_calls(index):
    llm = ScriptedLLM(rule=lambda passage: 0.9 if "furious" in passage else 0.1)
    retriever = RefinementRetriever(index, llm=llm)
    for _ in range(3):
        retriever.retrieve("order refund printer")
    remembered = sum(map(len, llm.callback_manager._trace_map.values()))
    assert len(llm.prompts) == 60 and remembered <= 20
