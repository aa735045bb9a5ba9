"""Rows of a task, and what the model is given of a batch of them."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
from incontext.decoders import TOPIC, tokenizer_for

from llama_index_instruct import ConfigurationError
from llama_index_instruct.embedders.positions import padding
from llama_index_instruct.incontext.embedding import InContextEmbedding
from llama_index_instruct.incontext.groups import GroupCollator, TrainingSet
from llama_index_instruct.incontext.mined import MinedRow
from llama_index_instruct.incontext.prompts import InContextTokenizer
from llama_index_instruct.incontext.template import LG_ANNA
from llama_index_instruct.incontext.trainer import prepare
from llama_index_instruct.incontext.training_settings import InContextTrainingSettings

KINDS = ("retrieval", "similarity", "classification", "clustering")
ROWS = [
    MinedRow(f"order {i}", f"the printer of order {i}", (f"watch {i}", f"laptop {i}"), (0.9, 0.3, i / 10))
    for i in range(8)
]
PAD = 1


class Watched(InContextTokenizer):
    """Notes which examples each query is shown."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shown = []

    def queries(self, texts, head):
        self.shown += [(text, head.examples) for text in texts]
        return super().queries(texts, head)


@functools.cache
def tokens():
    return padding(tokenizer_for("llama"))


def collator(*sets, most_examples=2, seed=0, **budgets):
    limits = {"window": 4000, "query_tokens": 512, "passage_tokens": 512, "example_tokens": 1536} | budgets
    return GroupCollator(
        Watched(tokens(), LG_ANNA, **limits), {found.name: found for found in sets}, most_examples, seed, PAD
    )


def qa(rows=ROWS, kind="retrieval", name="qa"):
    return TrainingSet(name, rows, TOPIC, kind)


def batch(found, *places):
    """As the trainer's loader hands rows over."""
    columns = found.columns()
    return [
        {key: values[i] for key, values in columns.items()} | {"dataset_name": found.name}
        for i in places or range(len(found.rows))
    ]


def unpadded(made, column):
    ids, mask = made[f"{column}_input_ids"], made[f"{column}_attention_mask"]
    return [row[: int(count)].tolist() for row, count in zip(ids, mask.sum(dim=1), strict=True)]


def drawn_examples(collate, found, rounds):
    """What the queries of many batches are shown: all pairs of two rows and more."""
    for first in range(rounds):
        collate(batch(found, *((first + i * (1 + first // 8)) % 8 for i in range(4))))
    return collate.tokenizer.shown


# Sets


def test_a_set_without_rows_is_refused():
    with pytest.raises(ConfigurationError, match="training set qa: expected rows, found none"):
        qa([])


def test_rows_with_different_numbers_of_negatives_are_refused():
    with pytest.raises(ConfigurationError, match=r"qa: expected the same number of negatives .* found \[1, 2\]"):
        qa([MinedRow("a", "b", ("c",)), MinedRow("d", "e", ("f", "g"))])


def test_scores_in_some_rows_only_are_refused():
    with pytest.raises(ConfigurationError, match="qa: expected soft scores in all rows or in none"):
        qa([MinedRow("a", "b", ("c",), (1.0, 0.0)), MinedRow("d", "e", ("f",))])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_negatives_are_for_kinds_compared_in_the_batch(kind):
    pairs = [MinedRow("a", "b"), MinedRow("c", "d")]
    if kind in ("retrieval", "similarity"):
        assert qa(pairs, kind).in_batch
    else:
        with pytest.raises(ConfigurationError, match=f"qa: expected negatives, as rows of a {kind} task share labels"):
            qa(pairs, kind)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigurationError, match=r"qa: .*kind"):
        qa(kind="ranking")


@pytest.mark.parametrize(
    ("scores", "bounded"), [((0.9, 0.1), True), ((1.0, -1.0), True), ((7.5, -3.0), False), ((0.5, -1.01), False)]
)
def test_scores_within_one_are_no_logits(scores, bounded):
    rows = [MinedRow("a", "b", ("c",), (0.5, 0.5)), MinedRow("d", "e", ("f",), scores)]
    assert qa(rows).bounded == bounded


# Which examples a query is shown


def test_examples_are_other_rows_of_the_batch_with_their_positives():
    collate, found = collator(qa(), most_examples=3), qa()
    for places in ((0, 1, 2, 3), (4, 5, 6), (7, 2)):
        collate.tokenizer.shown.clear()
        collate(batch(found, *places))
        pairs = {(ROWS[i].query, ROWS[i].positive) for i in places}
        for query, examples in collate.tokenizer.shown:
            assert set(examples) <= {pair for pair in pairs if pair[0] != query}
            assert len(set(examples)) == len(examples)


def test_another_row_of_the_same_query_is_no_example_of_it():
    twice = [MinedRow("order 1", f"answer {i}") for i in range(3)] + [MinedRow("order 2", "answer 3")]
    shown = drawn_examples(collator(found := qa(twice * 2), most_examples=5), found, 20)
    assert {example for query, examples in shown if query == "order 1" for example in examples} == {
        ("order 2", "answer 3")
    }


def test_every_number_of_examples_up_to_the_most_is_drawn_alike():
    shown = drawn_examples(collator(qa(), most_examples=3), qa(), 100)
    counts = Counter(len(examples) for _, examples in shown)
    assert sorted(counts) == [0, 1, 2, 3] and min(counts.values()) > 0.6 * max(counts.values())


def test_every_other_row_is_shown_at_times():
    collate = collator(qa(), most_examples=1)
    shown = drawn_examples(collate, qa(), 100)
    seen = {(query, example[0]) for query, examples in shown for example in examples}
    assert len(seen) > 0.8 * 8 * 7


def test_a_small_batch_shows_what_it_has():
    collate = collator(qa(), most_examples=5)
    for places in ((i, (i + 1) % 8) for i in range(8)):
        collate(batch(qa(), *places))
    assert {len(examples) for _, examples in collate.tokenizer.shown} == {0, 1}


def test_a_batch_of_one_row_shows_none():
    collate = collator(qa(), most_examples=5)
    collate(batch(qa(), 3))
    assert collate.tokenizer.shown == [("order 3", ())]


def test_no_examples_where_none_are_wanted():
    assert not any(examples for _, examples in drawn_examples(collator(qa(), most_examples=0), qa(), 10))


def test_examples_that_do_not_fit_are_left_out_whole():
    task_alone = len(tokens()(LG_ANNA.head(TOPIC, ()))["input_ids"])
    with_one = len(tokens()(LG_ANNA.head(TOPIC, [(ROWS[0].query, ROWS[0].positive)]))["input_ids"])
    budget = task_alone + int(1.5 * (with_one - task_alone))
    shown = drawn_examples(collator(qa(), most_examples=3, example_tokens=budget), qa(), 10)
    assert {len(examples) for _, examples in shown} == {0, 1}


def test_the_same_batch_is_written_the_same_way_twice():
    one, two = (collator(qa(), most_examples=3)(batch(qa())) for _ in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one if key != "dataset_name")


def test_another_seed_or_another_batch_draws_other_examples():
    def shown(seed, *places):
        collate = collator(qa(), most_examples=3, seed=seed)
        collate(batch(qa(), *places))
        return sorted(collate.tokenizer.shown)

    assert shown(0) == shown(0) != shown(1)
    assert shown(0) != shown(0, *reversed(range(8)))


# What is written


@pytest.mark.parametrize("kind", ["retrieval", "classification"])
def test_passages_are_raw(kind):
    collate = collator(qa(kind=kind))
    texts = [text for row in ROWS for text in (row.positive, *row.negatives)]
    assert unpadded(collate(batch(qa(kind=kind))), "documents") == collate.tokenizer.passages(texts)


@pytest.mark.parametrize("kind", ["similarity", "clustering"])
def test_passages_of_symmetric_tasks_are_read_with_the_task_and_no_examples(kind):
    collate = collator(qa(kind=kind), most_examples=3)
    texts = [text for row in ROWS for text in (row.positive, *row.negatives)]
    wanted = collate.tokenizer.queries(texts, collate.tokenizer.head(TOPIC, ()))
    assert unpadded(collate(batch(qa(kind=kind))), "documents") == wanted


@pytest.mark.parametrize("column", ["query", "documents"])
def test_rows_are_filled_up_behind_and_masked(column):
    made = collator(qa(), most_examples=3)(batch(qa()))
    ids, mask = made[f"{column}_input_ids"], made[f"{column}_attention_mask"]
    lengths = mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 1 and ids.shape == mask.shape == (len(ids), int(lengths.max()))
    behind = torch.arange(ids.shape[1]) >= lengths[:, None]
    assert torch.equal(mask, (~behind).long()) and (ids[behind] == PAD).all()


def test_scores_are_the_labels():
    made = collator(qa())(batch(qa(), 2, 5))
    torch.testing.assert_close(made["label"], torch.tensor([[0.9, 0.3, 0.2], [0.9, 0.3, 0.5]]))


def test_without_scores_there_are_no_labels():
    unscored = qa([MinedRow(row.query, row.positive, row.negatives) for row in ROWS])
    assert "label" not in collator(unscored)(batch(unscored))


def test_known_answers_are_found_in_the_whole_set_and_of_that_set_only():
    rows = [
        MinedRow("q", "one", ("x",)),
        MinedRow("q", "two", ("y",)),
        MinedRow("r", "three", ("two",)),
        MinedRow("s", "one", ("z",)),
    ]
    found, other = qa(rows), qa([MinedRow("r", "x", ("y",))], name="other")
    known = collator(found, other)(batch(found, 0, 2, 3))["documents_known"]
    # Documents: one x, three two, one z.
    assert known.tolist() == [
        [True, False, False, True, True, False],
        [False, False, True, False, False, False],
        [True, False, False, False, True, False],
    ]


def test_rows_are_read_with_the_task_of_their_own_set():
    sets = [TrainingSet("one", ROWS, "Find it.", "similarity"), TrainingSet("two", ROWS, TOPIC)]
    collate = collator(*sets, most_examples=0)
    for found in sets:
        made = collate(batch(found))
        wanted = collate.tokenizer.queries([row.query for row in ROWS], collate.tokenizer.head(found.task, ()))
        assert made["dataset_name"] == found.name and unpadded(made, "query") == wanted


# Training and inference read the same tokens


def test_the_trainer_reads_what_the_embedding_reads(folder, embedding: InContextEmbedding, tmp_path):
    texts = ["The laptop works", "ok", " two  spaces", "日本 🙂", "(7) {task} {query} </s>"]
    found = qa([MinedRow(text, f"{text}, answered", (f"not {text}",)) for text in texts])
    settings = InContextTrainingSettings(most_examples=1, lora_rank=0)
    collate = prepare([found], str(folder), tmp_path, settings, ()).data_collator
    numbers = set()
    for other in range(1, len(texts)):
        made = collate(batch(found, 0, other))
        pairs = [(texts[i], f"{texts[i]}, answered") for i in (0, other)]
        for at, (query, row) in enumerate(zip((texts[0], texts[other]), unpadded(made, "query"), strict=True)):
            read = [
                embedding._tokenizer.queries([query], embedding._tokenizer.head(TOPIC, shown))[0]
                for shown in ((), (pairs[1 - at],))
            ]
            assert row in read
            numbers.add(read.index(row))
        documents = [text for i in (0, other) for text in (f"{texts[i]}, answered", f"not {texts[i]}")]
        assert unpadded(made, "documents") == embedding._tokenizer.passages(documents)
    assert numbers == {0, 1}
