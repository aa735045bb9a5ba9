"""Each rule by hand, and what holds of all of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct import ConfigurationError
from llama_index_instruct.incontext.margins import NAIVE, REASONS, RULES, MarginRule, find_rule

NAN = math.nan
# Eighths and their sums are exact, so a bound is the same number however it is computed.
eighths = st.integers(-16, 16).map(lambda n: n / 8)
margins = st.integers(0, 16).map(lambda n: n / 8)
score_lists = st.lists(eighths | st.just(NAN), max_size=12).map(np.array)


def reasons(rule, scores, positive=0.8, to_positive=None):
    similar = None if to_positive is None else np.array(to_positive)
    return rule.reasons(np.array(scores, dtype=float), positive, similar)


def kept(rule, scores, positive=0.8, to_positive=None):
    return [score for score, why in zip(scores, reasons(rule, scores, positive, to_positive), strict=True) if not why]


@pytest.mark.parametrize(
    ("rule", "positive", "stays", "goes"),
    [
        (MarginRule(absolute_margin=0.25), 0.75, [0.5, -1.0], [0.51, 0.75, 0.9]),
        (MarginRule(absolute_margin=0.0), 0.75, [0.75], [0.76]),
        (MarginRule(relative_margin=0.25), 1.0, [0.75, 0.0], [0.76, 1.0]),
        (MarginRule(relative_margin=0.0), 0.5, [0.5], [0.51]),
        (MarginRule(relative_margin=0.5), -0.5, [-0.75, -1.0], [-0.74, -0.5, -0.25]),
        (MarginRule(relative_margin=0.5), 0.0, [0.0], [0.01]),
        (MarginRule(max_score=0.7), 0.2, [0.7, -1.0], [0.71]),
        (MarginRule(min_score=0.1), 0.2, [0.1, 0.9], [0.09, -1.0]),
        (MarginRule(absolute_margin=0.5, max_score=0.25, min_score=0.0), 1.0, [0.25, 0.0], [0.26, -0.1, 0.5]),
        (NAIVE, 0.2, [0.9, -1.0, 0.2], []),
    ],
)
def test_what_each_rule_keeps(rule, positive, stays, goes):
    assert kept(rule, [*stays, *goes], positive) == stays


def test_a_near_copy_of_the_positive_is_no_negative():
    rule = MarginRule(max_positive_similarity=0.8)
    assert reasons(rule, [0.1, 0.1, 0.1], to_positive=[0.79, 0.8, 0.81]) == ["", "", "near_positive"]


def test_near_copies_need_something_to_compare_with():
    with pytest.raises(ConfigurationError, match="max_positive_similarity: expected an embedding model, found none"):
        reasons(RULES["adaptive"], [0.1])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_candidate_without_a_score_is_no_negative(rule):
    found = reasons(rule, [NAN, *[0.0] * 11], to_positive=[0.0] * 12)
    assert found[0] == "no_score" and "" in found


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_without_a_score_of_the_positive_there_are_no_negatives(rule):
    assert reasons(rule, [0.1, 0.9], NAN, to_positive=[0.0, 0.0]) == ["no_score"] * 2


def test_the_first_rule_that_applies_is_counted():
    rule = MarginRule(
        absolute_margin=0.3, relative_margin=0.5, max_score=0.2, min_score=0.1, max_positive_similarity=0.5, skip_top=1
    )
    scores = [NAN, 0.8, 0.45, 0.3, 0.05, 0.15, 0.18, 0.12]
    similar = [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0]
    assert reasons(rule, scores, to_positive=similar) == [*REASONS, ""]


def test_skip_top_counts_after_filtering():
    rule = MarginRule(max_score=0.7, skip_top=2)
    scores = [0.3, 0.9, 0.6, 0.8, 0.5]
    assert reasons(rule, scores) == ["", "max_score", "skip_top", "max_score", "skip_top"]


def test_skip_top_takes_the_earlier_of_equal_scores():
    assert reasons(MarginRule(skip_top=1), [0.5, 0.6, 0.6]) == ["", "skip_top", ""]


def test_skip_top_may_leave_none():
    assert reasons(MarginRule(skip_top=10), [0.5, 0.6]) == ["skip_top"] * 2


def test_no_candidates_have_no_reasons():
    assert reasons(RULES["adaptive"], [], to_positive=[]) == []


@given(score_lists, eighths, margins, margins, st.sampled_from(["absolute_margin", "relative_margin"]), st.data())
@settings(max_examples=80, deadline=None)
def test_a_larger_margin_keeps_no_more(scores, positive, one, other, name, data):
    others = {"min_score": data.draw(st.none() | eighths), "skip_top": data.draw(st.integers(0, 3))}
    small, large = (
        {at for at, why in enumerate(MarginRule(**{name: margin}, **others).reasons(scores, positive)) if not why}
        for margin in sorted((one, other))
    )
    assert large <= small


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("relative_margin", "absolute_margin") for value in (-1, NAN, math.inf)),
        ("skip_top", -1),
    ],
)
def test_a_rule_out_of_range_is_named(name, value):
    with pytest.raises(ConfigurationError, match=rf"^{name}: expected 0 or more, found {value}"):
        MarginRule(**{name: value})


def test_the_named_rules_are_nv_retrievers_and_two_of_ours():
    assert {
        "topk": MarginRule(),
        "topk-shifted": MarginRule(skip_top=10),
        "topk-abs": MarginRule(max_score=0.7),
        "topk-marginpos": MarginRule(absolute_margin=0.05),
        "topk-percpos": MarginRule(relative_margin=0.05),
        "adaptive": MarginRule(relative_margin=0.05, max_positive_similarity=0.8),
        "verdict": MarginRule(relative_margin=0.3, max_positive_similarity=0.8),
    } == RULES


def test_rules_are_found_by_name():
    assert find_rule("topk-abs") is RULES["topk-abs"] and find_rule(NAIVE) is NAIVE


@pytest.mark.parametrize("name", ["nearest", "", 3])
def test_an_unknown_rule_is_named_beside_the_known(name):
    with pytest.raises(
        ConfigurationError, match=f"^rule: expected a MarginRule or one of adaptive, verdict, topk,.*found {name!r}$"
    ):
        find_rule(name)
