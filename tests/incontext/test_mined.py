"""Mined rows: as columns for the trainer, and as files."""

import gzip
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from llama_index_instruct import ConfigurationError
from llama_index_instruct.incontext.mined import (
    MinedNegatives,
    MinedRow,
    MiningReport,
    RemovedCandidate,
    as_columns,
    read_mined,
    write_mined,
)

ROWS = [
    MinedRow("glad", "happy printer", ("angry printer", "calm router"), (0.9, 0.4, 0.1)),
    MinedRow("ink", "printer paper", ("router signal", "laptop screen"), (0.8, 0.3, 0.2)),
]


# rows and columns


@pytest.mark.parametrize("scores", [(0.9,), (0.9, 0.4), (0.9, 0.4, 0.1, 0.0)])
def test_a_row_has_a_score_of_each_passage(scores):
    with pytest.raises(ConfigurationError, match=f"^scores: expected .* 3 in all, found {len(scores)}$"):
        MinedRow("q", "p", ("n", "m"), scores)


def test_n_tuples_have_a_column_per_negative():
    assert as_columns(ROWS) == {
        "query": ["glad", "ink"],
        "positive": ["happy printer", "printer paper"],
        "negative_1": ["angry printer", "router signal"],
        "negative_2": ["calm router", "laptop screen"],
        "scores": [[0.9, 0.4, 0.1], [0.8, 0.3, 0.2]],
    }


def test_triplets_have_a_row_per_negative():
    assert as_columns(ROWS, "triplet") == {
        "query": ["glad", "glad", "ink", "ink"],
        "positive": ["happy printer", "happy printer", "printer paper", "printer paper"],
        "negative_1": ["angry printer", "calm router", "router signal", "laptop screen"],
        "scores": [[0.9, 0.4], [0.9, 0.1], [0.8, 0.3], [0.8, 0.2]],
    }


def test_labelled_lists_have_all_passages_in_one_column():
    assert as_columns([ROWS[0], MinedRow("q", "p", ("n",), (0.5, 0.1))], "labeled-list") == {
        "query": ["glad", "q"],
        "documents": [["happy printer", "angry printer", "calm router"], ["p", "n"]],
        "labels": [[1, 0, 0], [1, 0]],
        "scores": [[0.9, 0.4, 0.1], [0.5, 0.1]],
    }


@pytest.mark.parametrize("layout", ["n-tuple", "triplet", "labeled-list"])
def test_rows_without_soft_labels_have_no_scores_column(layout):
    assert "scores" not in as_columns([MinedRow("q", "p", ("n",))], layout)


@pytest.mark.parametrize("layout", ["n-tuple", "triplet", "labeled-list"])
def test_soft_labels_are_in_all_rows_or_in_none(layout):
    with pytest.raises(ConfigurationError, match="expected soft scores in all rows or in none"):
        as_columns([ROWS[0], MinedRow("q", "p", ("n", "m"))], layout)


def test_n_tuples_have_equally_many_negatives():
    with pytest.raises(ConfigurationError, match=r"expected the same number of negatives in all, found \[1, 2\]"):
        as_columns([ROWS[0], MinedRow("q", "p", ("n",), (0.5, 0.1))])


@pytest.mark.parametrize("layout", ["n-tuple", "triplet", "labeled-list"])
def test_the_dataset_has_these_columns(layout):
    found = MinedNegatives(ROWS, MiningReport()).to_dataset(layout)
    assert found.to_dict() == as_columns(ROWS, layout)


def test_the_trainer_gets_scores_as_labels_and_the_rest_as_texts():
    dataset = MinedNegatives(ROWS, MiningReport()).to_dataset()
    asked = []

    def preprocess(texts, *_, **__):
        asked.append(list(texts))
        return {"input_ids": torch.zeros(len(texts), 1)}

    batch = SentenceTransformerDataCollator(preprocess)([dataset[0], dataset[1]])
    assert batch["label"].shape == (2, 3)
    torch.testing.assert_close(batch["label"], torch.tensor([row.scores for row in ROWS]))
    assert asked == [column for name, column in as_columns(ROWS).items() if name != "scores"]


# the report


def test_three_of_the_removed_are_shown_per_reason():
    report = MiningReport()
    for number in range(5):
        for reason in ("relative_margin", "no_score"):
            report.show(RemovedCandidate(reason, "q", "p", str(number), 0.9, 0.8))
    assert [(shown.reason, shown.candidate) for shown in report.shown] == [
        (reason, str(number)) for number in range(3) for reason in ("relative_margin", "no_score")
    ]


def test_the_report_is_plain_values():
    report = MiningReport(queries=1, candidates=2, kept=1, rows=1)
    report.removed["max_score"] += 1
    report.show(RemovedCandidate("max_score", "q", "p", "c", 0.9, 0.8))
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["removed"] == {"max_score": 1} and plain["shown"][0]["candidate"] == "c" and plain["kept"] == 1


# files

odd = st.text(min_size=1, max_size=12).filter(str.strip)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def rows(draw):
    negatives = draw(st.lists(odd, max_size=3))
    scores = draw(st.just([]) | st.lists(numbers, min_size=1 + len(negatives), max_size=1 + len(negatives)))
    return MinedRow(draw(odd), draw(odd), tuple(negatives), tuple(scores))


@given(written=st.lists(rows(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_again(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("mined") / "new" / "rows.jsonl"
    assert write_mined(path, iter(written)) == len(written)
    assert read_mined(path) == written


@pytest.mark.parametrize(
    "text", ["two\nlines\r\n", "\u2028 \x85 \x0c.", "\x00.", '{"query": "b"}', "שלום 🙂", "x" * 10**5]
)
def test_odd_texts_are_read_again(tmp_path, text):
    row = MinedRow(text, text + ".", (text + "..",), (1e-300, -0.1))
    MinedNegatives([row], MiningReport()).save(tmp_path / "rows.jsonl")
    assert read_mined(tmp_path / "rows.jsonl") == [row]


def test_half_a_surrogate_pair_is_read_again_or_named(tmp_path):
    row = MinedRow("a \ud83d b", "p", ("n",), (0.5, 0.1))
    try:
        write_mined(tmp_path / "rows.jsonl", [row])
    except ConfigurationError:
        return
    assert read_mined(tmp_path / "rows.jsonl") == [row]


def test_pairs_and_gzip_are_read(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as out:
        out.write('{"query": "q", "positive": "p", "id": 7}\n\n{"query": "q", "positive": "r", "negatives": null}\n')
    assert read_mined(path) == [MinedRow("q", "p"), MinedRow("q", "r")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        "{}",
        '{"query": "q"}',
        '{"query": "q", "positive": " "}',
        '{"query": 3, "positive": "p"}',
        '{"query": "q", "positive": "p", "negatives": "n"}',
        '{"query": "q", "positive": "p", "negatives": [""]}',
        '{"query": "q", "positive": "p", "negatives": ["n"], "scores": 0.5}',
        '{"query": "q", "positive": "p", "negatives": ["n"], "scores": ["0.5", "0.1"]}',
        '{"query": "q", "positive": "p", "negatives": ["n"], "scores": [true, 0.1]}',
        '{"query": "q", "positive": "p", "negatives": ["n"], "scores": [0.5]}',
        '{"query": "q", "positive": "p", "negatives": ["n"], "scores": [NaN, 0.1]}',
        '{"query": "q", "positive": "p", "negatives": ["n"], "scores": [1%s, 0.1]}' % ("0" * 400),
    ],
    ids=range(14),
)
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "positive": "p"}\n' + line + "\n")
    with pytest.raises(ConfigurationError, match=rf"^{path}, line 2: expected|^{path}, line 2: scores: expected"):
        read_mined(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.jsonl: cannot be read"):
        read_mined(tmp_path / "nowhere.jsonl")
