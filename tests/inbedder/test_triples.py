import gzip
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.inbedder.triples import QATriple, groups_of, read_triples, without_stopwords
from llama_index_instruct.inbedder.words import english_stopwords

ROW = {"paragraph": "The ink is dry.", "question": "Which thing?", "answer": "printer"}
STOPWORDS = english_stopwords()
WORDS = st.sampled_from(
    [*STOPWORDS[:40], "Not", "printer", "ink", "late delivery", "“the”", "the,", "...", "ß", "今天"]
)
ANSWERS = st.one_of(st.text(min_size=1), st.lists(WORDS, min_size=1).map(" ".join)).filter(str.strip)
TRIPLES = st.lists(
    st.builds(QATriple, st.sampled_from("abcd"), st.just("q"), st.just("x"), st.sampled_from(["", "g", "h", "a"])),
    max_size=40,
)


def write(path, *lines):
    payload = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_bytes(gzip.compress(payload.encode()) if path.suffix == ".gz" else payload.encode())
    return path


# Reading


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_files_are_read_in_order(tmp_path, name):
    second = {**ROW, "paragraph": "Größe\u2028 今天 {input}\n", "group": "shop", "source": "letters", "id": 7}
    path = write(tmp_path / name, ROW, "", second, "   ")
    other = write(tmp_path / "other.jsonl", {**ROW, "answer": "router", "group": 3})
    assert read_triples([path, str(other)]) == [
        QATriple("The ink is dry.", "Which thing?", "printer"),
        QATriple("Größe\u2028 今天 {input}\n", "Which thing?", "printer", "shop", "letters"),
        QATriple("The ink is dry.", "Which thing?", "router", "3"),
    ]


def test_no_files_and_empty_files_hold_nothing(tmp_path):
    assert read_triples([]) == read_triples([write(tmp_path / "empty.jsonl")]) == []


@pytest.mark.parametrize("name", ["bad.jsonl", "bad.jsonl.gz"])
@pytest.mark.parametrize(
    "line",
    [
        '{"paragraph": "cut sho',
        "[1, 2]",
        "null",
        '"text"',
        "3",
        {"paragraph": "a", "question": "b"},
        {**ROW, "answer": ""},
        {**ROW, "question": " \n"},
        {**ROW, "paragraph": None},
        {**ROW, "answer": ["printer"]},
        {**ROW, "answer": 4},
    ],
)
def test_a_fault_is_told_with_its_file_and_line(tmp_path, name, line):
    good = write(tmp_path / "good.jsonl", ROW)
    path = write(tmp_path / name, ROW, "", line, ROW)
    with pytest.raises(ConfigurationError) as caught:
        read_triples([good, path])
    assert f"{path}, line 3:" in str(caught.value)


def test_bytes_that_are_no_text_are_told_with_their_file(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n\xff\xfe{}\n")
    with pytest.raises(ConfigurationError, match=r"bad\.jsonl"):
        read_triples([path])


@pytest.mark.parametrize("name", ["group", "source"])
def test_null_is_as_good_as_nothing(tmp_path, name):
    path = write(tmp_path / "data.jsonl", {**ROW, name: None})
    assert read_triples([path]) == [QATriple(*ROW.values())]


# Answers


@given(ANSWERS)
def test_an_answer_is_never_emptied_and_nothing_is_invented(answer):
    kept = without_stopwords(answer, STOPWORDS)
    assert kept.strip() and kept == " ".join(kept.split())
    assert not Counter(kept.split()) - Counter(answer.split())
    assert without_stopwords(kept, STOPWORDS) == kept
    words = [word for word in kept.split() if word.lower().strip(".,;:!?'\"()") in STOPWORDS]
    assert not words or kept == " ".join(answer.split())


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("in the late morning", "late morning"),
        ("The printer", "printer"),
        ("her own", "her own"),
        ("No.", "No."),
        ("It was (the) printer, of course!", "printer, course!"),
        ("  a   b\tprinter\n", "b printer"),
        ("theory", "theory"),
    ],
)
def test_stopwords_are_dropped_whatever_their_case_and_punctuation(answer, kept):
    assert without_stopwords(answer, STOPWORDS) == kept


def test_without_a_list_only_spaces_change():
    assert without_stopwords(" in  the end ", []) == "in the end"


# Groups


@given(TRIPLES, st.integers(1, 6))
def test_every_triple_is_in_one_group_of_its_own_kind(triples, largest):
    groups = groups_of(triples, largest)
    assert sorted(i for group in groups for i in group) == list(range(len(triples)))
    assert all(1 <= len(group) <= largest and group == sorted(group) for group in groups)
    keys = [{triples[i].group or triples[i].paragraph for i in group} for group in groups]
    assert all(len(key) == 1 for key in keys)
    sizes = Counter(triple.group or triple.paragraph for triple in triples)
    assert len(groups) == sum(-(-size // largest) for size in sizes.values())


def test_questions_about_one_paragraph_are_a_group_by_themselves():
    rows = [QATriple("one", q, "x") for q in "ab"] + [QATriple("two", "a", "x"), QATriple("one", "c", "x", "other")]
    assert groups_of(rows, 32) == [[0, 1], [2], [3]]
