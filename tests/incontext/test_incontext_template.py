"""What the decoder reads, character by character."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import pytest

from llama_index_instruct import ConfigurationError
from llama_index_instruct.incontext.template import (
    BARE,
    BGE_EN_ICL,
    LG_ANNA,
    PLAIN,
    TEMPLATES,
    InContextTemplate,
    find_template,
)

TASK = "Find the product."
FIRST = ("It hums all night", "fridge")
SECOND = ("No picture", "television")
BRACED = "{task} {query} {passage} {} {0} %s {{x}} {"


def written(template, examples, query, task=TASK):
    return template.head(task, examples) + query + template.tail(task)


@pytest.mark.parametrize(
    "examples, expected",
    [
        ([], "Instruct: Find the product.\nQuery: it leaks\nResponse:"),
        (
            [FIRST],
            "Instruct: Find the product.\nQuery: It hums all night\nResponse: fridge\n\n"
            "Instruct: Find the product.\nQuery: it leaks\nResponse:",
        ),
        (
            [FIRST, SECOND],
            "Instruct: Find the product.\nQuery: It hums all night\nResponse: fridge\n\n"
            "Instruct: Find the product.\nQuery: No picture\nResponse: television\n\n"
            "Instruct: Find the product.\nQuery: it leaks\nResponse:",
        ),
    ],
    ids=["none", "one", "two"],
)
def test_lg_anna_puts_examples_first_then_the_task_then_the_query(examples, expected):
    assert written(LG_ANNA, examples, "it leaks") == expected


@pytest.mark.parametrize(
    "examples, expected",
    [
        ([], "<instruct>Find the product.\n<query>it leaks\n<response>"),
        (
            [FIRST],
            "<instruct>Find the product.\n<query>It hums all night\n<response>fridge\n\n"
            "<instruct>Find the product.\n<query>it leaks\n<response>",
        ),
        (
            [FIRST, SECOND],
            "<instruct>Find the product.\n<query>It hums all night\n<response>fridge\n\n"
            "<instruct>Find the product.\n<query>No picture\n<response>television\n\n"
            "<instruct>Find the product.\n<query>it leaks\n<response>",
        ),
    ],
    ids=["none", "one", "two"],
)
def test_bge_en_icl_writes_its_own_tokens(examples, expected):
    assert written(BGE_EN_ICL, examples, "it leaks") == expected


@pytest.mark.parametrize(
    "examples, expected",
    [
        ([], "Instruct: Find the product.\nQuery: it leaks"),
        (
            [FIRST],
            "Instruct: Find the product.\nQuery: It hums all night\nPassage: fridge\n\n"
            "Instruct: Find the product.\nQuery: it leaks",
        ),
        (
            [FIRST, SECOND],
            "Instruct: Find the product.\nQuery: It hums all night\nPassage: fridge\n\n"
            "Instruct: Find the product.\nQuery: No picture\nPassage: television\n\n"
            "Instruct: Find the product.\nQuery: it leaks",
        ),
    ],
    ids=["none", "one", "two"],
)
def test_plain_ends_with_the_query(examples, expected):
    assert written(PLAIN, examples, "it leaks") == expected


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_braces_in_tasks_examples_and_queries_are_only_text(template):
    expected = written(template, [("QUERY", "PASSAGE")], "ASKED", "TASK")
    for name in ("TASK", "QUERY", "PASSAGE", "ASKED"):
        expected = expected.replace(name, BRACED)
    assert written(template, [(BRACED, BRACED)], BRACED, BRACED) == expected


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("text", ["", " ", "\n", "\\n \\1 \\g<0>", "日本 🙂"])
def test_texts_stand_in_the_prompt_as_they_are(template, text):
    expected = written(template, [("QUERY", "PASSAGE")], "ASKED").replace("QUERY", text).replace("PASSAGE", text)
    assert written(template, [(text, text)], text) == expected.replace("ASKED", text)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_an_example_is_written_as_the_query_is(template):
    shown = template.show(TASK, FIRST)
    assert shown.startswith(template.head(TASK, []) + FIRST[0])
    assert shown.endswith(FIRST[1])
    assert template.head(TASK, [FIRST]) == shown + "\n\n" + template.head(TASK, [])


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_tail_depends_on_no_example(template):
    assert template.tail(TASK) == template.cue
    assert template.adds_eos


def test_the_task_may_stand_behind_the_query():
    template = InContextTemplate("Q: {query}\nTo do: {task}", " -> {passage}.", " ->", separator=" | ", adds_eos=False)
    assert written(template, [FIRST], "it {task} leaks") == (
        "Q: It hums all night\nTo do: Find the product. -> fridge. | Q: it {task} leaks\nTo do: Find the product. ->"
    )


@pytest.mark.parametrize(
    "query, example, found",
    [
        ("{query}", "{passage}", "{query}"),
        ("{task}", "{passage}", "{task}"),
        ("", "{passage}", ""),
        ("{task} {query} {query}", "{passage}", "{task} {query} {query}"),
        ("{task} {task} {query}", "{passage}", "{task} {task} {query}"),
        ("{task} {query}", "", ""),
        ("{task} {query}", "{passage}{passage}", "{passage}{passage}"),
        ("{task} {query}", "{ passage }", "{ passage }"),
    ],
)
def test_a_template_without_each_slot_once_is_refused(query, example, found):
    with pytest.raises(ConfigurationError, match=f"template: expected .* once each, found {re.escape(repr(found))}"):
        InContextTemplate(query, example, "")


def test_templates_are_found_by_name():
    assert find_template("lg-anna") is LG_ANNA
    assert find_template("bge-en-icl") is BGE_EN_ICL
    assert find_template("plain") is PLAIN
    assert find_template("bare") is BARE


@pytest.mark.parametrize("name", ["", "LG-ANNA", "icl"])
def test_an_unknown_template_is_refused_with_the_known_names(name):
    with pytest.raises(
        ConfigurationError, match=f"template: expected one of lg-anna, bge-en-icl, plain, bare, found '{name}'"
    ):
        find_template(name)


def test_a_template_does_not_change():
    with pytest.raises(FrozenInstanceError):
        LG_ANNA.cue = "\nAnswer:"
