"""The two benches that train: the recipe's arms on questions, and steering by examples; tiny real models, a few steps."""

from __future__ import annotations

import json
import statistics
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from command_line import refused, run, write_rows
from fakes import WordEmbedding
from inbedder.small_training import save_tiny
from incontext.sentence_encoders import save_sentence_encoder, without_checkpoint_cards
from retrieval_sets import small_set, write_beir
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig

from llama_index_instruct import ConfigurationError
from llama_index_instruct.evaluation import recipe
from llama_index_instruct.evaluation.ranking import mean_measures, rankings
from llama_index_instruct.evaluation.recipe import ARMS, HELD_OUT, RecipeBench, bench_recipe, split
from llama_index_instruct.evaluation.steering import (
    TASK,
    Faceted,
    SteeringBench,
    as_decoder,
    bench_steering,
    groups_of_texts,
    steered,
    training_sets,
)
from llama_index_instruct.inbedder.facet_texts import Domain, Facet
from llama_index_instruct.inbedder.triples import QATriple
from llama_index_instruct.incontext.embedding import InContextEmbedding

PARTS = ("paper", "ink", "signal", "cable", "keyboard", "screen", "ringtone", "call", "battery")
THINGS = ("printer", "router", "laptop", "phone")
MOODS = ("happy", "angry", "calm")
TRIPLES = [
    QATriple(f"{part} {part} {part} {part} {thing}", f"Where is the {part}?", thing, source=("a", "b")[i % 2])
    for i, (part, thing) in enumerate(zip(PARTS, THINGS * 3, strict=False))
]
TRIPLES += [replace(triple, question=f"Who has the {part}?") for triple, part in zip(TRIPLES, PARTS, strict=True)]
SMALL = {"questions": 8, "held_out": 4, "num_negatives": 1, "sample_from": 2, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    # Random texts must lie apart, or all candidates are near the positive; how far they do depends on PyTorch's version.
    return str(save_sentence_encoder(tmp_path_factory.mktemp("encoder") / "bert", positions=512, word_scale=8.0))


@pytest.fixture(scope="module")
def settings(base):
    return RecipeBench(**SMALL, base=base, teacher="hybrid", seeds=(0, 1), arms=("in-batch", "margin+soft"))


# Questions to train on and to test on


def test_no_paragraph_is_both_trained_on_and_tested_on(settings):
    train, held_out = split(TRIPLES, settings)
    known = {paragraph for _, paragraph in train}
    assert len(train) == 8 and known and not known & set(held_out.documents)
    assert len(held_out.documents) == 3 and known | set(held_out.documents) <= {t.paragraph for t in TRIPLES}
    assert set(train) <= {(t.question, t.paragraph) for t in TRIPLES}


def test_held_out_questions_have_their_paragraphs(settings):
    asked = [replace(triple, question="Where is it?") if i < 9 else triple for i, triple in enumerate(TRIPLES)]
    _, held_out = split(asked, settings)
    found = {
        query.text: {held_out.documents[at] for at in rows}
        for query, rows in zip(held_out.queries, held_out.relevant, strict=True)
    }
    assert "Where is it?" in found
    for question, paragraphs in found.items():
        answering = {t.paragraph for t in asked if t.question == question}
        assert paragraphs == answering & set(held_out.documents)


def test_no_more_questions_are_tested_than_asked_for(settings):
    assert len(split(TRIPLES, settings)[1].queries) == 4
    assert len(split(TRIPLES, replace(settings, held_out=1000))[1].queries) == 6


def test_long_paragraphs_are_left_out(settings):
    long = QATriple("word " * 11, "Where?", "here")
    train, held_out = split([*TRIPLES, long], replace(settings, longest=10))
    assert long.paragraph not in {*held_out.documents, *(paragraph for _, paragraph in train)}


@pytest.mark.parametrize("triples", [TRIPLES[:4], [], TRIPLES[:1] * 9])
def test_too_few_questions_are_refused(settings, triples):
    with pytest.raises(ConfigurationError, match="triples: expected 8 questions to train on and some held out"):
        split(triples, settings)


@pytest.mark.parametrize(("field", "value"), [("arms", ()), ("arms", ("in-batch", "magic")), ("seeds", ())])
def test_settings_out_of_range_are_refused(settings, field, value):
    with pytest.raises(ConfigurationError, match=f"{field}: expected"):
        replace(settings, **{field: value})


# The recipe's record


@contextmanager
def scored_in_full():
    """Scores as a plain float32 encoder gives them, whatever this machine multiplies natively."""
    with without_checkpoint_cards(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "multiplies_bfloat16", lambda device: False)
        yield


@pytest.fixture(scope="module")
def record(settings):
    with scored_in_full():
        return bench_recipe(TRIPLES, [small_set()], settings, progress=False)


def test_the_record_has_exactly_its_shape(record, settings):
    assert list(record) == ["bench", "settings", "data", "mining", "scores", "means"]
    assert record["bench"] == "recipe" and record["settings"] == asdict(settings)
    assert record["data"] == {"training questions": 8, HELD_OUT: 4, "shop": 8}
    runs = {arm: len(scores) for arm, scores in record["scores"].items()}
    assert runs == {"untrained": 1, "teacher's model": 1, "in-batch": 2, "margin+soft": 2}
    assert list(record["means"]) == list(record["scores"])
    for scores in record["scores"].values():
        for run_ in scores:
            assert list(run_) == [HELD_OUT, "shop"]
            assert all(list(found) == ["map", "ndcg@10"] for found in run_.values())
    assert json.loads(json.dumps(record)).keys() == record.keys()


def test_mining_is_reported_per_rule(record):
    assert list(record["mining"]) == ["adaptive"]
    report = record["mining"]["adaptive"]
    assert report["queries"] == 8 and report["candidates"] > 0 and report["rows"] + report["dropped"] == 8


def test_means_and_spreads_are_over_the_seeds(record):
    for arm, found in record["means"].items():
        for name, row in found.items():
            maps = [scores[name]["map"] for scores in record["scores"][arm]]
            assert list(row) == ["map", "spread", "ndcg@10"]
            assert row["map"] == pytest.approx(statistics.fmean(maps))
            assert row["spread"] == pytest.approx(np.std(maps, ddof=1) if len(maps) > 1 else 0.0)


def test_the_untrained_scores_are_those_of_the_base(record, base):
    encoder, data = SentenceTransformer(base), small_set()
    queries = encoder.encode([query.text for query in data.queries], normalize_embeddings=True)
    documents = encoder.encode(data.documents, normalize_embeddings=True)
    (found,) = record["scores"]["untrained"]
    assert found["shop"] == pytest.approx(mean_measures(data, rankings(data, queries, documents)))


def test_training_and_its_seed_change_the_scores(record):
    (untrained,) = record["scores"]["untrained"]
    one, two = record["scores"]["in-batch"]
    assert untrained != one != two != untrained


def test_arms_alone_give_what_they_give_together(record, settings):
    alone = replace(settings, arms=("in-batch",), seeds=(1,))
    with scored_in_full():
        again = bench_recipe(TRIPLES, [small_set()], alone, progress=False)
    assert again["scores"] == {
        "untrained": record["scores"]["untrained"],
        "in-batch": record["scores"]["in-batch"][1:],
    }
    assert again["mining"] == {}


def recipe_command(tmp_path, base, *more):
    rows = [asdict(triple) for triple in TRIPLES]
    output = tmp_path / "new" / "record.json"
    qa = write_rows(tmp_path / "qa.jsonl", rows)
    small = ("--questions", 4, "--held-out", 4, "--negatives", 1, "--batch-size", 4, "--learning-rate", 1e-3)
    chosen = ("--base", base, "--arms", "in-batch", "--seeds", "3", "--sources", "")
    return run("bench", "recipe", "--qa", qa, "--output", output, *small, *chosen, *more), output


def test_the_recipe_command_writes_the_record_and_prints_it(tmp_path, base):
    result, output = recipe_command(tmp_path, base, "--data", write_beir(tmp_path / "shop", small_set()))
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    asked = {"base": base, "questions": 4, "held_out": 4, "num_negatives": 1, "arms": ["in-batch"], "seeds": [3]}
    assert found["settings"].items() >= asked.items()
    assert list(found["means"]) == ["untrained", "in-batch"] and list(found["means"]["in-batch"]) == [HELD_OUT, "shop"]
    assert f"written: {output}" in result.output
    row = next(line for line in result.output.splitlines() if " in-batch " in line)
    assert all(f"{scores['map']:.1f}" in row for scores in found["means"]["in-batch"].values())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--arms", "in-batch,magic"), "arms: expected some of in-batch, naive, margin, margin+soft, found magic"),
        (("--seeds", "1,x"), "seeds: expected whole numbers"),
        (("--seeds", ""), "seeds: expected at least one"),
        (("--sources", "c"), "triples: expected 4 questions"),
        (("--questions", 100), "triples: expected 100 questions"),
        (("--epochs", 0), "epochs: expected more than 0"),
        (("--base", "./nowhere"), "expected an existing folder"),
        (("--data", "./nowhere"), "expected corpus.jsonl"),
        (("--arms", "margin", "--teacher", "oracle"), "teacher: expected"),
    ],
)
def test_a_wrong_recipe_command_is_one_line(tmp_path, base, changed, said):
    result, output = recipe_command(tmp_path, base, *changed)
    assert said in refused(result) and not output.exists()


def test_every_arm_is_known():
    assert RecipeBench().arms == tuple(ARMS)


# An encoder read from left to right


@pytest.fixture(scope="module")
def decoder(base, tmp_path_factory):
    return as_decoder(base, tmp_path_factory.mktemp("decoder") / "bert")


def test_the_decoder_is_causal(decoder):
    assert AutoConfig.from_pretrained(decoder).is_decoder
    encoder = InContextEmbedding(str(decoder), TASK, dtype="float32", device="cpu")._encoder
    ids = torch.tensor([[2, 7, 9, 11, 3]])
    with torch.inference_mode():
        whole, part = (encoder.body(input_ids=ids[:, :count]).last_hidden_state for count in (5, 3))
    torch.testing.assert_close(whole[:, :3], part, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_the_decoders_shared_beginning_and_the_long_way_agree(decoder, padding):
    examples = [("The ink leaks", "ink"), ("No signal", "signal")]
    model = InContextEmbedding(
        str(decoder), TASK, examples, dtype="float32", device="cpu", normalize=False, padding=padding
    )
    queries = ["The printer jams", "ok", "the paper and the ink of the printer are lost"]
    rows = model._tokenizer.queries(queries, model._head)
    assert len(model._head.shared) > 10 and all(row[: len(model._head.shared)] == [*model._head.shared] for row in rows)
    np.testing.assert_allclose(model.get_query_embeddings(queries), model._encoder.embed(rows), rtol=0, atol=1e-4)
    before = model.with_task(TASK).get_query_embeddings(queries)
    assert np.abs(np.array(before) - model.get_query_embeddings(queries)).max() > 1e-3


@pytest.mark.parametrize("kind", ["no sentence encoder", "nowhere"])
def test_other_bases_are_refused(tmp_path, kind):
    base = str(save_tiny("bert", tmp_path / "bert")) if kind == "no sentence encoder" else str(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="expected"):
        as_decoder(base, tmp_path / "decoder")


# Steering


def domain(name):
    """Whole texts of every pair of labels."""
    facets = tuple(
        Facet(facet, (f"Which {facet}?",), dict.fromkeys(values, ()))
        for facet, values in (("mood", MOODS), ("thing", THINGS))
    )
    texts = tuple(
        (f"{name} {copy} {mood} {thing}", {"mood": mood, "thing": thing})
        for copy in range(2)
        for mood in MOODS
        for thing in THINGS
    )
    return Domain(name, facets, texts)


DOMAINS = [domain("shop"), domain("market"), domain("fair")]
STEERED = SteeringBench(held_out=1, groups=1, tested=1, examples=(0, 2), learning_rate=1e-3)
GROUPS = groups_of_texts(DOMAINS, 2, 0)


def shop(texts, examples):
    """Never looks at the examples."""
    vectors = np.array(WordEmbedding().get_text_embedding_batch(list(texts)), dtype=np.float32)
    return vectors, lambda values: shop(values, ())[0]


def follows(sign):
    """Looks only at them: whether they name feelings or things."""

    def embed(texts, examples):
        asked = sign if examples[0][1] in MOODS else -sign
        queries = np.tile(np.array([asked, 0.0], dtype=np.float32), (len(texts), 1))
        return queries, lambda values: np.array([[1.0 if v in MOODS else -1.0, 0.0] for v in values], dtype=np.float32)

    return embed


def test_groups_are_texts_of_one_domain_with_two_values_each():
    assert len(GROUPS) == 6 and {group.domain for group in GROUPS} == {"shop", "market", "fair"}
    labels = {text: set(values.values()) for domain_ in DOMAINS for text, values in domain_.texts}
    for group in GROUPS:
        assert len(group.texts) == len(group.values) >= 4
        assert all(text.startswith(group.domain) for text in group.texts)
        assert all(set(values) == labels[text] for text, values in zip(group.texts, group.values, strict=True))
        firsts, seconds = ({values[side] for values in group.values} for side in (0, 1))
        assert not firsts & seconds


def test_rows_teach_the_value_asked_for_against_the_other_facets():
    sets = training_sets(GROUPS)
    assert len(sets) == 2 * len(GROUPS)
    for number, found in enumerate(sets):
        group, side = GROUPS[number // 2], number % 2
        values = dict(zip(group.texts, group.values, strict=True))
        assert found.task == TASK and found.kind == "classification"
        for row in found.rows:
            assert row.positive == values[row.query][side]
            other, rival, misleading = row.negatives
            assert other == values[row.query][1 - side]
            assert rival != row.positive and rival in {pair[side] for pair in group.values}
            assert misleading != other and misleading in {pair[1 - side] for pair in group.values}


@pytest.mark.parametrize("examples", [0, 1, 3])
def test_whatever_ignores_the_examples_scores_fifty(examples):
    assert steered(GROUPS, shop, examples, 0) == pytest.approx(50, abs=1e-9)


@pytest.mark.parametrize(("sign", "score"), [(1, 100), (-1, 0), (0, 50)])
def test_whatever_follows_them_scores_a_hundred_and_a_tie_counts_half(sign, score):
    assert steered(GROUPS, follows(sign), 1, 0) == score


def test_texts_that_are_shown_are_not_asked():
    asked = []

    def embed(texts, examples):
        asked.append((set(texts), {text for text, _ in examples}))
        return shop(texts, examples)

    steered(GROUPS, embed, 3, 0)
    for group, pair in zip(GROUPS, zip(asked[::2], asked[1::2], strict=True), strict=True):
        for texts, shown in pair:
            assert len(shown) == 3 and texts | shown == set(group.texts) and not texts & shown


def test_examples_name_the_value_on_the_facet_asked_for():
    shown = []

    def embed(texts, examples):
        shown.append(list(examples))
        return shop(texts, examples)

    steered(GROUPS, embed, 2, 0)
    for number, examples in enumerate(shown):
        group, side = GROUPS[number // 2], number % 2
        values = dict(zip(group.texts, group.values, strict=True))
        assert all(answer == values[text][side] for text, answer in examples)


def test_a_group_with_fewer_texts_than_examples_is_no_reason_to_stop():
    few = [replace(group, texts=group.texts[:4], values=group.values[:4]) for group in GROUPS[:1]]
    assert steered([*few, *GROUPS], shop, 5, 0) == pytest.approx(50, abs=1e-9)


@pytest.fixture(scope="module")
def steering(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steering")
    with without_checkpoint_cards():
        return bench_steering(DOMAINS, STEERED, folder, base=base), folder


def test_the_steering_record_has_exactly_its_shape(steering, base):
    found, folder = steering
    assert list(found) == ["bench", "settings", "rows", "success"]
    assert found["bench"] == "steering" and found["settings"] == asdict(STEERED)
    assert list(found["success"]) == ["examples before the text, " + base, "decoder, not trained", "decoder, trained"]
    for scores in found["success"].values():
        assert list(scores) == ["0", "2"] and all(0 <= score <= 100 for score in scores.values())
    assert found["rows"]["trained on"] > 0 and found["rows"]["tested"] > 0
    assert (folder / "trained" / "README.md").is_file() and (folder / "base" / "config.json").is_file()


def test_without_examples_nobody_knows_what_is_asked(steering):
    assert all(scores["0"] == pytest.approx(50, abs=1e-9) for scores in steering[0]["success"].values())


def test_it_trains_on_the_domains_that_are_not_tested(steering):
    card = (steering[1] / "trained" / "README.md").read_text(encoding="utf-8")
    order = np.random.default_rng(STEERED.seed).permutation(3).tolist()
    known = groups_of_texts([DOMAINS[i] for i in order[1:]], 1, STEERED.seed)
    assert card.count("| classification |") == 2 * len(known) and TASK in card
    tested = groups_of_texts([DOMAINS[order[0]]], 1, STEERED.seed + 1000)
    assert steering[0]["rows"]["tested"] == 2 * sum(len(group.texts) for group in tested)


@pytest.mark.parametrize("held_out", [0, 3, 4])
def test_some_domains_are_trained_on_and_some_tested(base, tmp_path, held_out):
    with pytest.raises(ConfigurationError, match="held_out: expected 1 to 2 domains"):
        bench_steering(DOMAINS, replace(STEERED, held_out=held_out), tmp_path, base=base)


def test_texts_with_one_value_have_no_rivals_and_no_rows():
    group = Faceted("shop", ("a", "b", "c", "d"), (("happy", "printer"),) * 4)
    assert training_sets([group]) == []


def domain_rows(count, filled=()):
    """Domains as they stand in a file; those that are not filled have no texts."""
    return [
        {
            "domain": found.name,
            "facets": [
                {"name": facet.name, "questions": facet.questions, "labels": dict.fromkeys(facet.sentences, ())}
                for facet in found.facets
            ],
            "texts": [{"text": text, "labels": labels} for text, labels in found.texts] if number in filled else [],
        }
        for number, found in enumerate(domain(f"p{number}") for number in range(count))
    ]


def steering_command(tmp_path, base, rows, *more):
    output = tmp_path / "new" / "record.json"
    domains = write_rows(tmp_path / "domains.jsonl", rows)
    chosen = ("--base", base, "--groups", 1, "--epochs", 0.1, "--seed", 2)
    return (
        run(
            "bench", "steering", "--domains", domains, "--folder", tmp_path / "kept", "--output", output, *chosen, *more
        ),
        output,
    )


def test_the_steering_command_writes_the_record_and_prints_it(tmp_path, base):
    count = SteeringBench().held_out + 1
    order = np.random.default_rng(2).permutation(count).tolist()
    rows = domain_rows(count, {order[0], order[-1]})  # one to test on and the one to train on
    result, output = steering_command(tmp_path, base, rows)
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    assert found["settings"].items() >= {"groups": 1, "epochs": 0.1, "seed": 2}.items()
    assert f"written: {output}" in result.output
    for name, scores in found["success"].items():
        row = next(line for line in result.output.splitlines() if f" {name} " in line)
        assert all(f"{score:.1f}" in row for score in scores.values())


@pytest.mark.parametrize(
    ("rows", "changed", "said"),
    [
        (domain_rows(2), (), "held_out: expected 1 to 1 domains"),
        ([{"domain": "shop"}], (), "domains.jsonl, line 1"),
        (domain_rows(20), ("--base", "./nowhere"), "expected an existing folder"),
        (domain_rows(20), ("--epochs", 0), "epochs: expected more than 0"),
    ],
)
def test_a_wrong_steering_command_is_one_line(tmp_path, base, rows, changed, said):
    result, output = steering_command(tmp_path, base, rows, *changed)
    assert said in refused(result) and not output.exists()
