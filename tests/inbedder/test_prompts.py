"""From texts to batches of token ids: templates, windows, packing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, FEELING, LITERAL, MASKED, PATTERN, TEXTS, TOPIC, make_tokenizer

from llama_index_instruct import ConfigurationError
from llama_index_instruct.embedders.packing import packed
from llama_index_instruct.inbedder.template import CHAT, INBEDDER, PromptTemplate, find_template
from llama_index_instruct.inbedder.tokenization import PromptTokenizer, special_tokens

quick = settings(max_examples=40, deadline=None, derandomize=True)
TOKENIZERS = {name: make_tokenizer(name) for name in ARCHITECTURES}
pieces = st.sampled_from([*TEXTS, LITERAL, "x" * 30, "日本語", "🙂", "e\u0301", "\n\n", "   ", "### Response:", "\x00"])
texts = st.one_of(st.text(max_size=60), st.lists(pieces, max_size=8).map("".join))


def kind_of(name):
    return "masked" if name in MASKED else "seq2seq" if name == "t5" else "causal"


def prompts(name, max_length, template=INBEDDER):
    tokenizer = TOKENIZERS[name]
    prefix, suffix = special_tokens(tokenizer, kind_of(name), 3)
    made = PromptTokenizer(tokenizer, PromptTemplate(template), max_length=max_length, prefix=prefix, suffix=suffix)
    return made, prefix, suffix


def plain(name, text):
    return TOKENIZERS[name](text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("name", ARCHITECTURES)
@quick
@given(text=texts, extra=st.integers(0, 12))
def test_never_longer_than_the_window_and_the_instruction_survives(name, text, extra):
    unlimited, prefix, suffix = prompts(name, 10_000)
    bare = unlimited.encode([""], [FEELING])[0][0]
    limit = len(bare) + extra
    limited, _, _ = prompts(name, limit)
    (row,), cut = limited.encode([text], [FEELING])
    (whole,), none = unlimited.encode([text], [FEELING])
    assert none == 0 and len(row) <= limit
    assert cut == (len(whole) > limit)
    if not cut:
        assert row == whole
    shorter = (text[:end] for end in range(len(text), -1, -1))
    assert any(row == unlimited.encode([start], [FEELING])[0][0] for start in shorter)
    assert row[: len(prefix)] == prefix and row[len(row) - len(suffix) :] == suffix


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_long_text_fills_the_window(name):
    limited, _, _ = prompts(name, 100)
    text = " ".join(TEXTS) * 10
    (row,), cut = limited.encode([text], [FEELING])
    assert cut == 1 and 97 <= len(row) <= 100


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_prompt_is_what_the_tokenizer_itself_makes(name):
    made, _, _ = prompts(name, 500)
    tokenizer = TOKENIZERS[name]
    masks = tokenizer.mask_token * 3 if name in MASKED else ""
    for text in TEXTS:
        filled = PATTERN.replace("{instruction}", TOPIC).replace("{input}", text) + masks
        assert made.encode([text], [TOPIC])[0][0] == tokenizer(filled)["input_ids"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_keep_their_order_and_their_instructions(name):
    made, _, _ = prompts(name, 80)
    asked = [FEELING, TOPIC] * 4
    several = [*TEXTS, "the end " * 60]
    rows, cut = made.encode(several, asked)
    assert cut >= 1
    for row, text, question in zip(rows, several, asked, strict=True):
        assert row == made.encode([text], [question])[0][0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_instruction_that_does_not_fit_is_named(name):
    bare = len(prompts(name, 10_000)[0].encode([""], [FEELING])[0][0])
    made, _, _ = prompts(name, bare - 1)
    with pytest.raises(ConfigurationError, match=r"instruction: expected at most \d+ tokens.*How does the writer"):
        made.encode(["ok"], [FEELING])


@quick
@given(text=texts, instruction=texts)
def test_slots_are_filled_once(text, instruction):
    head, middle, tail = "### Input:\n", "\n\n### Instruction:\n", "\n\n### Response:"
    assert PromptTemplate(INBEDDER).fill(text, instruction) == head + text + middle + instruction + tail


@pytest.mark.parametrize("values", [("{instruction}", "{input}"), ("\\1", "\\g<1>"), ("{0}", "%s")])
def test_slot_names_inside_values_stay(values):
    assert PromptTemplate("{instruction}|{input}").fill(*values) == f"{values[1]}|{values[0]}"


@pytest.mark.parametrize(
    "pattern", ["", "{input}", "{instruction}", "{input}{input}{instruction}", "{Input}{instruction}"]
)
def test_a_pattern_needs_each_slot_once(pattern):
    with pytest.raises(ConfigurationError, match="once each"):
        PromptTemplate(pattern)


def test_templates_by_name_or_as_pattern():
    assert find_template("inbedder").pattern == INBEDDER == PATTERN
    assert find_template("chat").pattern == CHAT
    assert find_template("{input}? {instruction}").fill("a", "b") == "a? b"


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ConfigurationError, match="expected a fast tokenizer, found Slow"):
        PromptTokenizer(Slow(), PromptTemplate(INBEDDER), max_length=10)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 2048))
def test_every_row_once_and_the_budget_held(lengths, budget):
    batches = list(packed(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for one, following in pairwise(batches):
        assert (len(one) + 1) * lengths[one[0]] > budget
        assert min(lengths[i] for i in one) >= lengths[following[0]]


def test_equal_rows_share_batches_in_order():
    assert list(packed([3, 3, 3, 3, 3], 6)) == [[0, 1], [2, 3], [4]]
    assert list(packed([], 6)) == []
