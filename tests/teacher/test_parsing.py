import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_instruct.teacher.parsing import parse_yes_no, yes_probability


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("yes", True),
        ("Yes.", True),
        (" NO!", False),
        ("**No**", False),
        ("\u00a0yes\u2003", True),
        ("yes, it is", True),
        ("Answer: yes", True),
        ("The answer is no.", False),
        ("<think>no no no</think> yes", True),
        ("<think>yes, never closed", None),
        ("yes and no", None),
        ("no, yes", None),
        ("yesterday", None),
        ("ja", None),
        ("ye", None),
        ("not relevant", None),
        ("There is no doubt it is relevant", None),
        ("I cannot help with that.", None),
        ("", None),
        (None, None),
        ("   \n", None),
    ],
)
def test_only_an_unambiguous_word_counts(reply, expected):
    assert parse_yes_no(reply) is expected


@given(st.text())
def test_every_string_is_yes_no_or_none(reply):
    assert parse_yes_no(reply) in (True, False, None)


@given(st.text(alphabet="yesnoYESNO ,.<>/think\n"))
def test_both_words_are_never_a_verdict(reply):
    assert parse_yes_no(f"yes {reply} no") is None or "<think>" in reply.lower()


def test_spellings_are_pooled_and_others_ignored():
    alternatives = [("Yes", math.log(0.5)), ("▁yes", math.log(0.1)), (" NO", math.log(0.2)), ("yesterday", -2.0)]
    assert yes_probability(alternatives) == pytest.approx(0.6 / 0.8)


def test_a_missing_word_gets_its_upper_bound():
    # 0.9 + 0.06 leave 0.04; nothing unseen can be likelier than the least seen, 0.06: the smaller bound holds.
    assert yes_probability([("yes", math.log(0.9)), ("maybe", math.log(0.06))]) == pytest.approx(0.9 / 0.94)
    assert yes_probability([("no", math.log(0.8))]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "alternatives",
    [
        [],
        [("maybe", -0.1)],
        [("I", -0.002), ("No", -6.5), ("Yes", -8.1)],
        [("yes", -20.0), ("the", -0.01)],
        [("yes", math.nan)],
    ],
)
def test_neither_word_is_no_judgement(alternatives):
    assert yes_probability(alternatives) is None


@given(st.lists(st.tuples(st.sampled_from(["yes", "No", " yes", "x", ""]), st.floats(-50, 5))))
def test_always_a_probability_or_none(alternatives):
    value = yes_probability(alternatives)
    assert value is None or 0.0 <= value <= 1.0
