"""The benchmark of in-context embeddings, on a tiny set with tiny real models."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import refused, run
from incontext.decoders import save
from incontext.sentence_encoders import save_sentence_encoder
from retrieval_sets import THINGS, small_set, write_beir
from sentence_transformers import SentenceTransformer

from llama_index_instruct import ConfigurationError
from llama_index_instruct.evaluation.datasets import Query, load_beir
from llama_index_instruct.evaluation.incontext_bench import TASK, InContextBench, bench_incontext, split_examples
from llama_index_instruct.evaluation.incontext_speed import PREFIXES, bench_prefix_reuse
from llama_index_instruct.evaluation.ranking import mean_measures, rankings
from llama_index_instruct.incontext.embedding import InContextEmbedding
from llama_index_instruct.incontext.template import LG_ANNA

INSTRUCTED = small_set(
    name="instructed",
    queries=[
        Query(f"q{i}", f"order {i}, {thing}", f"Find the {thing}." if i % 2 else "") for i, thing in enumerate(THINGS)
    ],
    pools=[np.array(sorted({i, (i + 1) % 8, (i + 3) % 8, 0})) for i in range(8)],
)
ASKED = "Find the product."


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"decoder": str(save("llama", folder / "llama")), "peer": str(save_sentence_encoder(folder / "bert"))}


@pytest.fixture(scope="module")
def settings(models):
    return InContextBench((models["decoder"],), examples=(0, 2), task=ASKED, peer=models["peer"])


@pytest.fixture(scope="module")
def record(settings):
    return bench_incontext([small_set(), INSTRUCTED], settings, speed=False, progress=False)


# The record


def test_the_record_has_exactly_its_shape(record, models):
    assert list(record) == ["bench", "settings", "datasets", "means", "speed"]
    assert record["bench"] == "incontext" and record["speed"] == {}
    assert json.loads(json.dumps(record))["settings"] == {
        "models": [models["decoder"]],
        "examples": [0, 2],
        "task": ASKED,
        "template": "lg-anna",
        "peer": models["peer"],
        "seed": 0,
    }
    assert list(record["datasets"]) == ["shop", "instructed"]
    peer = models["peer"]
    methods = [peer, f"{peer}, prompt with 0", f"{peer}, prompt with 2", "llama, 0 examples", "llama, 2 examples"]
    for found in record["datasets"].values():
        assert list(found) == ["queries", "documents", "methods"]
        assert list(found["methods"]) == methods
        assert all(list(scores) == ["map", "ndcg@10"] for scores in found["methods"].values())


def test_the_queries_shown_as_examples_are_not_counted(record):
    assert all((found["queries"], found["documents"]) == (6, 8) for found in record["datasets"].values())


def test_means_are_over_the_sets(record):
    shop, instructed = (found["methods"] for found in record["datasets"].values())
    for method, mean in record["means"].items():
        assert mean == pytest.approx((shop[method]["map"] + instructed[method]["map"]) / 2)


@pytest.mark.parametrize("data", [small_set(), INSTRUCTED], ids=lambda data: data.name)
@pytest.mark.parametrize("count", [0, 2])
def test_scores_are_those_of_the_embedding_under_each_querys_instruction(record, models, data, count):
    examples, asked = split_examples(data, 2, 0)
    model = InContextEmbedding(models["decoder"], ASKED)
    queries = [
        model.with_task(query.instruction or ASKED, examples[:count]).get_query_embedding(query.text)
        for query in asked.queries
    ]
    documents = np.array(model.get_text_embedding_batch(asked.documents), dtype=np.float32)
    wanted = mean_measures(asked, rankings(asked, np.array(queries, dtype=np.float32), documents))
    assert record["datasets"][data.name]["methods"][f"llama, {count} examples"] == pytest.approx(wanted)


@pytest.mark.parametrize("data", [small_set(), INSTRUCTED], ids=lambda data: data.name)
def test_the_peer_reads_queries_as_they_are_and_in_the_same_prompt(record, models, data):
    examples, asked = split_examples(data, 2, 0)
    encoder = SentenceTransformer(models["peer"])
    documents = encoder.encode(asked.documents, normalize_embeddings=True)
    tasks = [query.instruction or ASKED for query in asked.queries]
    prompts = [
        LG_ANNA.head(task, examples) + query.text + LG_ANNA.tail(task)
        for query, task in zip(asked.queries, tasks, strict=True)
    ]
    methods = record["datasets"][data.name]["methods"]
    for texts, method in (([query.embedded_text for query in asked.queries], ""), (prompts, ", prompt with 2")):
        queries = encoder.encode(texts, normalize_embeddings=True)
        assert methods[models["peer"] + method] == pytest.approx(
            mean_measures(asked, rankings(asked, queries, documents))
        )


def test_kept_vectors_give_the_same_record(record, settings, tmp_path):
    for _ in range(2):
        again = bench_incontext([small_set(), INSTRUCTED], settings, cache=tmp_path, speed=False, progress=False)
        assert again == record
    assert list(tmp_path.glob("*.npy"))


# Examples


@pytest.mark.parametrize("count", [0, 1, 7])
def test_examples_are_queries_with_an_answer_and_are_left_out(count):
    data = small_set()
    examples, asked = split_examples(data, count, 0)
    pairs = {(query.text, answer) for query, answer in zip(data.queries, data.documents, strict=True)}
    assert len(set(examples)) == count and set(examples) <= pairs
    shown = {query for query, _ in examples}
    assert asked.queries == [query for query in data.queries if query.text not in shown]
    assert asked.documents == data.documents


def test_what_belongs_to_a_query_stays_with_it():
    _, asked = split_examples(INSTRUCTED, 3, 0)
    for query, relevant, pool in zip(asked.queries, asked.relevant, asked.pools, strict=True):
        at = int(query.id.removeprefix("q"))
        assert relevant.tolist() == [at] and pool.tolist() == INSTRUCTED.pools[at].tolist()


def test_an_example_may_show_any_of_the_relevant_documents():
    both = small_set(relevant=[np.array([i, (i + 1) % 8]) for i in range(8)])
    shown = {example for seed in range(40) for example in split_examples(both, 4, seed)[0]}
    of_first = {answer for query, answer in shown if query == both.queries[0].text}
    assert of_first == {both.documents[0], both.documents[1]}


def test_the_seed_draws():
    assert split_examples(small_set(), 4, 1)[0] == split_examples(small_set(), 4, 1)[0]
    assert split_examples(small_set(), 4, 1)[0] != split_examples(small_set(), 4, 2)[0]


def test_no_query_left_to_ask_is_refused():
    with pytest.raises(ConfigurationError, match="shop: expected more than 8 queries"):
        split_examples(small_set(), 8, 0)


@pytest.mark.parametrize(("field", "value"), [("examples", ()), ("examples", (0, -1)), ("template", "chat")])
def test_settings_out_of_range_are_refused(settings, field, value):
    with pytest.raises(ConfigurationError, match=f"{field}: expected"):
        replace(settings, **{field: value})


# Speed


def test_reusing_the_beginning_gives_the_same_vectors_and_its_figures():
    found = bench_prefix_reuse(queries=2, rounds=1)
    assert list(found) == [str(length) for length in PREFIXES]
    for row in found.values():
        assert list(row) == ["queries_per_cpu_s", "times_faster", "largest_difference"]
        assert row["queries_per_cpu_s"] > 0 and row["times_faster"] > 0
        assert 0 <= row["largest_difference"] < 1e-5


# The command


def command(tmp_path, models, *more):
    output = tmp_path / "new" / "record.json"
    chosen = (
        "--model",
        models["decoder"],
        "--peer",
        models["peer"],
        "--examples",
        "0,2",
        "--task",
        ASKED,
        "--no-speed",
    )
    return run("bench", "incontext", "--output", output, *chosen, *more), output


def test_the_command_writes_the_record_and_prints_it(tmp_path, models, record):
    folders = [write_beir(tmp_path / data.name, data) for data in (small_set(), INSTRUCTED)]
    result, output = command(tmp_path, models, *(part for folder in folders for part in ("--data", folder)))
    assert result.exit_code == 0, result.output
    assert json.loads(output.read_text()) == json.loads(json.dumps(record))
    assert f"written: {output}" in result.output
    for method, mean in record["means"].items():
        assert f"{mean:.1f}" in next(line for line in result.output.splitlines() if f" {method} " in line)


def test_without_a_task_there_is_one(tmp_path, models):
    data, output = write_beir(tmp_path / "shop", small_set()), tmp_path / "r.json"
    chosen = ("--peer", models["peer"], "--examples", "0", "--no-speed")
    assert run("bench", "incontext", "--data", data, "--output", output, *chosen).exit_code == 0
    assert json.loads(output.read_text())["settings"]["task"] == TASK


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--examples", "1,x"), "examples: expected whole numbers with commas, found '1,x'"),
        (("--examples", "-1"), "examples: expected numbers of 0 or more"),
        (("--examples", ""), "examples: expected numbers of 0 or more"),
        (("--examples", "8"), "shop: expected more than 8 queries"),
        (("--template", "chat"), "template: expected one of"),
        (("--data", "./nowhere"), "nowhere: expected corpus.jsonl"),
        (("--model", "./nowhere"), "expected an existing folder"),
        (("--peer", "./nowhere"), "expected an existing folder"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, models, changed, said):
    result, output = command(tmp_path, models, "--data", write_beir(tmp_path / "shop", small_set()), *changed)
    assert said in refused(result) and not output.exists()


def test_a_written_set_is_read_again(tmp_path):
    again = load_beir(write_beir(tmp_path / "instructed", INSTRUCTED))
    assert again.queries == INSTRUCTED.queries and again.documents == INSTRUCTED.documents
    assert [rows.tolist() for rows in again.pools] == [rows.tolist() for rows in INSTRUCTED.pools]
