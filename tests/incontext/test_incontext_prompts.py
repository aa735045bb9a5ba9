"""Token ids of queries and passages: budgets, end tokens, the beginning that queries share."""

from __future__ import annotations

import functools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from incontext.decoders import DECODERS, EXAMPLES, QUERIES, TOPIC, tokenizer_for

from llama_index_instruct import ConfigurationError
from llama_index_instruct.incontext.prompts import InContextTokenizer
from llama_index_instruct.incontext.template import BGE_EN_ICL, LG_ANNA, PLAIN, TEMPLATES, InContextTemplate

MANY = [(f"query number {i} of many", f"passage number {i}") for i in range(8)]
LONG = " ".join(f"word{i} is long" for i in range(200))
ENDS = {
    "opt": "</s>",
    "llama": "</s>",
    "qwen2": "<|im_end|>",
    "gpt2": "<|endoftext|>",
    "mistral": "</s>",
    "gemma": "<eos>",
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BEGINNINGS = st.sampled_from(
    ["", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u0301", "\u0338", "é", "日", "🙂", ":", "=", "("]
)


@functools.cache
def tokenizer_named(name, **settings):
    return tokenizer_for(name, **settings)


def made(tokenizer, template=LG_ANNA, *, query_tokens=512, passage_tokens=512, example_tokens=1536):
    return InContextTokenizer(
        tokenizer,
        template,
        window=100_000,
        query_tokens=query_tokens,
        passage_tokens=passage_tokens,
        example_tokens=example_tokens,
    )


def own(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def literal(tokenizer, text):
    """Ids of a text as the tokenizer makes them, closed by its end token."""
    return [*tokenizer(text)["input_ids"], *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]


def begins(row, beginning):
    return tuple(row[: len(beginning)]) == tuple(beginning)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("ends", [True, False], ids=["end", "no_end"])
def test_a_query_is_the_whole_prompt_and_the_end_token(name, template, ends):
    tokenizer = tokenizer_named(name, ends=ends)
    prompts = made(tokenizer, template)
    head = prompts.head(TOPIC, EXAMPLES)
    before, after = template.head(TOPIC, EXAMPLES), template.tail(TOPIC)
    assert head.task == TOPIC and list(head.examples) == EXAMPLES
    expected = [literal(tokenizer, before + query + after) for query in QUERIES]
    assert prompts.queries(QUERIES, head) == expected


@pytest.mark.parametrize("ends", [True, False], ids=["end", "no_end"])
def test_a_passage_is_its_text_and_the_end_token(name, ends):
    tokenizer = tokenizer_named(name, ends=ends)
    texts = [query for query in QUERIES if query]
    assert made(tokenizer).passages(texts) == [literal(tokenizer, text) for text in texts]


def test_an_empty_passage_keeps_what_the_tokenizer_puts_before_it(name):
    """OPT begins its texts with its end token: that one is not the end of the text."""
    tokenizer = tokenizer_named(name)
    assert made(tokenizer).passages([""]) == [literal(tokenizer, "")]


def test_no_texts_are_no_rows(name):
    prompts = made(tokenizer_named(name))
    assert prompts.passages([]) == prompts.queries([], prompts.head(TOPIC, ())) == []


@pytest.mark.parametrize("ends", [True, False], ids=["end", "no_end"])
def test_every_text_has_a_token_to_be_read_at(name, ends):
    """Without any special token an empty passage holds nothing, and there is no last token to take."""
    assert all(made(tokenizer_named(name, ends=ends)).passages(["", " ", "ok"]))


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_end_token_stands_once_also_when_the_tokenizer_appends_it(name, template):
    plain = tokenizer_named(name)
    closing = tokenizer_named(name, appends=ENDS[name])
    assert closing("ok")["input_ids"][-1] == closing.eos_token_id
    ours, theirs = made(plain, template), made(closing, template)
    head = theirs.head(TOPIC, EXAMPLES)
    assert head == ours.head(TOPIC, EXAMPLES)
    texts = [query for query in QUERIES if query]
    rows = theirs.queries(texts, head) + theirs.passages(texts)
    assert rows == ours.queries(texts, head) + ours.passages(texts)
    for row in rows:
        assert row[-1] == plain.eos_token_id
        assert plain.eos_token_id not in row[1:-1]  # OPT begins with the same token


def test_a_tokenizer_that_appends_another_token_is_left_to_close_its_texts():
    """Qwen3-Embedding: its end token is <|im_end|>, its texts end with <|endoftext|> (QwenLM/Qwen3-Embedding#122)."""
    tokenizer = tokenizer_named("qwen2", appends="<|endoftext|>")
    prompts = made(tokenizer, PLAIN)
    expected = tokenizer("The printer jams")["input_ids"]
    assert tokenizer.eos_token == "<|im_end|>" and expected[-1] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert prompts.passages(["The printer jams"]) == [expected]
    head = prompts.head(TOPIC, EXAMPLES)
    assert prompts.queries(["ok"], head) == [tokenizer(PLAIN.head(TOPIC, EXAMPLES) + "ok")["input_ids"]]


def test_a_template_can_do_without_the_end_token(name):
    template = InContextTemplate(LG_ANNA.query, LG_ANNA.example, LG_ANNA.cue, adds_eos=False)
    tokenizer = tokenizer_named(name)
    prompts = made(tokenizer, template)
    text = template.head(TOPIC, EXAMPLES) + "ok" + template.tail(TOPIC)
    assert prompts.queries(["ok"], prompts.head(TOPIC, EXAMPLES)) == [tokenizer(text)["input_ids"]]
    assert prompts.passages(["ok"]) == [tokenizer("ok")["input_ids"]]


def test_names_of_special_tokens_in_a_text_are_plain_characters(name):
    tokenizer = tokenizer_named(name)
    prompts = made(tokenizer)
    end = ENDS[name]
    head = prompts.head(TOPIC, [(f"what {end}", f"{end} that")])
    texts = [end, f"{end} ok", f"ok {end}", f"ok {end} {end}", f"a{end}{end} a {end}"]
    rows = prompts.passages(texts) + prompts.queries(texts, head)
    assert [row[1:].count(tokenizer.eos_token_id) for row in rows] == [1] * len(rows)
    assert len({tuple(row) for row in rows}) == len(rows)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_examples_are_dropped_whole_and_from_the_end(name, template):
    tokenizer = tokenizer_named(name)
    lengths = [len(tokenizer(template.head(TOPIC, MANY[:k]))["input_ids"]) for k in range(len(MANY) + 1)]
    for kept, length in enumerate(lengths):
        for budget in (length, length + 1):
            prompts = made(tokenizer, template, example_tokens=budget)
            head = prompts.head(TOPIC, MANY)
            assert list(head.examples) == MANY[:kept]
            text = template.head(TOPIC, MANY[:kept]) + LONG[:40] + template.tail(TOPIC)
            assert prompts.queries([LONG[:40]], head) == [literal(tokenizer, text)]


def test_a_first_example_that_is_too_long_leaves_none(name):
    prompts = made(tokenizer_named(name), example_tokens=120)
    assert prompts.head(TOPIC, [("ok", LONG), *MANY[:1]]).examples == ()
    assert prompts.head(TOPIC, MANY[:1]).examples == (MANY[0],)


def test_a_task_that_does_not_fit_is_refused(name):
    tokenizer = tokenizer_named(name)
    length = len(tokenizer(LG_ANNA.head(LONG, []))["input_ids"])
    assert made(tokenizer, example_tokens=length).head(LONG, MANY).examples == ()
    with pytest.raises(ConfigurationError, match=f"task: expected at most {length - 1} tokens, found 'word0 is long"):
        made(tokenizer, example_tokens=length - 1).head(LONG, MANY)


@pytest.mark.parametrize("budget", [1, 2, 7, 30])
@pytest.mark.parametrize("template", [LG_ANNA, BGE_EN_ICL], ids=["lg-anna", "bge-en-icl"])
def test_a_long_query_is_cut_and_nothing_around_it(name, template, budget):
    tokenizer = tokenizer_named(name)
    prompts = made(tokenizer, template, query_tokens=budget)
    (row,) = prompts.queries([LONG], prompts.head(TOPIC, EXAMPLES))
    beginning = tokenizer.decode(own(tokenizer, LONG)[:budget])
    assert LONG.startswith(beginning)
    assert row == literal(tokenizer, template.head(TOPIC, EXAMPLES) + beginning + template.tail(TOPIC))


@pytest.mark.parametrize("budget", [1, 2, 7, 30])
def test_a_long_passage_is_cut(name, budget):
    tokenizer = tokenizer_named(name)
    (row,) = made(tokenizer, passage_tokens=budget, query_tokens=3).passages([LONG])
    around = len(literal(tokenizer, ""))
    assert len(row) == budget + around
    assert row[-1] == tokenizer.eos_token_id
    assert begins(tokenizer(LONG)["input_ids"], row[:-1])


def test_a_text_that_just_fits_is_not_cut(name):
    tokenizer = tokenizer_named(name)
    length = len(own(tokenizer, LONG))
    prompts = made(tokenizer, query_tokens=length, passage_tokens=length)
    assert prompts.passages([LONG]) == [literal(tokenizer, LONG)]
    text = LG_ANNA.head(TOPIC, ()) + LONG + LG_ANNA.tail(TOPIC)
    assert prompts.queries([LONG], prompts.head(TOPIC, ())) == [literal(tokenizer, text)]


def test_a_cut_inside_a_character_of_many_tokens_holds_the_budget(name):
    tokenizer = tokenizer_named(name)
    around = len(literal(tokenizer, ""))
    for budget in (3, 4, 5, 6, 9):
        (row,) = made(tokenizer, passage_tokens=budget).passages(["🦊" * 20])
        assert len(row) <= budget + around


@pytest.mark.parametrize("count", [0, 1, 8])
@pytest.mark.parametrize("example_tokens", [100, 1000])
def test_examples_never_cut_the_query(name, count, example_tokens):
    tokenizer = tokenizer_named(name)
    query = LONG[:300]
    length = len(own(tokenizer, query))
    prompts = made(tokenizer, query_tokens=length, example_tokens=example_tokens)
    head = prompts.head(TOPIC, MANY[:count])
    (row,) = prompts.queries([query], head)
    before, after = LG_ANNA.head(TOPIC, head.examples), LG_ANNA.tail(TOPIC)
    assert row == literal(tokenizer, before + query + after)
    assert len(tokenizer(before)["input_ids"]) <= example_tokens


def test_the_shared_head_is_nearly_all_that_stands_before_the_query(name):
    tokenizer = tokenizer_named(name)
    for template in TEMPLATES.values():
        head = made(tokenizer, template).head(TOPIC, EXAMPLES)
        before = len(tokenizer(template.head(TOPIC, EXAMPLES))["input_ids"])
        assert before - 3 <= len(head.shared) <= before


@pytest.mark.parametrize("name", ["opt", "llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_shared_head_opens_the_prompt_of_any_query(name, template):
    tokenizer = tokenizer_named(name)
    prompts = made(tokenizer, template)
    head = prompts.head(TOPIC, EXAMPLES)
    before, after = template.head(TOPIC, EXAMPLES), template.tail(TOPIC)

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(beginning=BEGINNINGS, rest=TEXT)
    @example(beginning="", rest="")
    @example(beginning="\n", rest="\nResponse:")
    def check(beginning, rest):
        query = beginning + rest
        (row,) = prompts.queries([query], head)
        assert begins(row, head.shared)
        assert len(row) > len(head.shared)
        assert row == literal(tokenizer, before + query + after)

    check()


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(beginning=BEGINNINGS, rest=TEXT, budget=st.integers(1, 12))
def test_a_cut_text_is_a_beginning_of_the_text(name, beginning, rest, budget):
    tokenizer = tokenizer_named(name)
    text = (beginning + rest or "a") * 3
    (row,) = made(tokenizer, passage_tokens=budget).passages([text])
    assert any(row == literal(tokenizer, text[:end]) for end in range(len(text) + 1))


def test_tokenizers_that_compose_characters_may_read_a_query_into_its_head():
    """A query that begins with a combining stroke changes the character before it; such prompts are computed in full."""
    prompts = made(tokenizer_named("qwen2", composes=True), BGE_EN_ICL)
    head = prompts.head(TOPIC, EXAMPLES)
    usual, odd = prompts.queries(["ok", "\u0338 ok"], head)
    assert begins(usual, head.shared) and not begins(odd, head.shared)


def test_an_empty_query_may_merge_what_stands_around_it():
    """Where spaces and line ends are pieces like any other (Gemma); such prompts are computed in full."""
    prompts = made(tokenizer_named("gemma"))
    head = prompts.head(TOPIC, EXAMPLES)
    for query, row in zip(QUERIES, prompts.queries(QUERIES, head), strict=True):
        assert begins(row, head.shared) or not query.strip() or query[0].isspace()
