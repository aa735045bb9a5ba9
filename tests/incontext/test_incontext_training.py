"""Training end to end on tiny real models: what is learnt, saved, resumed, refused and written on the card."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused, run, write_rows
from incontext.decoders import EXAMPLES, TOPIC
from incontext.sentence_encoders import save_sentence_encoder, without_checkpoint_cards
from retrieval_sets import THINGS, small_set, write_beir
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from llama_index_instruct import ConfigurationError, MissingExtraError
from llama_index_instruct.evaluation.datasets import Query
from llama_index_instruct.evaluation.during_training import retrieval_evaluator
from llama_index_instruct.incontext import training
from llama_index_instruct.incontext.embedding import InContextEmbedding
from llama_index_instruct.incontext.groups import BOUNDED_TEMPERATURE, TrainingSet
from llama_index_instruct.incontext.mined import MinedRow
from llama_index_instruct.incontext.objective import contrast, distillation
from llama_index_instruct.incontext.template import LG_ANNA, find_template
from llama_index_instruct.incontext.trainer import GroupLoss, load_for_training, prepare
from llama_index_instruct.incontext.training import train_incontext
from llama_index_instruct.incontext.training_settings import InContextTrainingSettings

LONG = "The laptop was paid two weeks ago. " * 40
ANSWERED = [
    MinedRow(f"order {i}, {thing}", f"{thing} answer", (f"{THINGS[i - 1]} note", LONG if i == 3 else "ok"), (5, 1, -2))
    for i, thing in enumerate(THINGS)
]
FELT = [
    MinedRow(f"{word} text", mood, (other,))
    for word in ("one", "two")
    for mood, other in (("glad", "sad"), ("sad", "glad"))
]
SETS = (
    TrainingSet("orders", ANSWERED, TOPIC, notes="made up, CC0"),
    TrainingSet("moods", FELT, "Glad or sad?", "classification"),
)
QUICK = InContextTrainingSettings(
    batch_size=4, learning_rate=1e-2, most_examples=2, lora_rank=4, lora_alpha=8, bf16=False, save_steps=4
)
STEPS = 3
WAYS = {"adapters": QUICK, "all weights": replace(QUICK, lora_rank=0, learning_rate=1e-3)}
PROMPT = "The watch works like a charm"


@pytest.fixture(scope="module", autouse=True)
def quick_checkpoints():
    with without_checkpoint_cards():
        yield


@pytest.fixture(scope="module")
def trained(decoder_folders, tmp_path_factory):
    """Per decoder and way the folder of an uninterrupted training, made when first asked for."""
    done = {}

    def of(name, way="adapters"):
        if (name, way) not in done:
            output = tmp_path_factory.mktemp("trained") / name
            done[name, way] = train_incontext(
                SETS, str(decoder_folders[name]), output, settings=WAYS[way], data_notes="All of it is made up."
            )
        return done[name, way]

    return of


@pytest.fixture(scope="module")
def encoder_base(tmp_path_factory) -> Path:
    return save_sentence_encoder(tmp_path_factory.mktemp("encoder") / "bert")


def read(folder, task=TOPIC, examples=EXAMPLES, **settings) -> InContextEmbedding:
    return InContextEmbedding(str(folder), task, examples, dtype="float32", device="cpu", **settings)


def plain(folder) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def vectors_of(folder):
    """What both sides of it give."""
    model = read(folder)
    return np.array([model.get_query_embedding(PROMPT), model.get_text_embedding(PROMPT)])


def weights(folder):
    (path,) = Path(folder).glob("*model.safetensors")
    return load_file(path)


def same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0.0, atol=0.0, msg=name)


def copied(folder, tmp_path):
    """As if the run had been stopped between its last checkpoint and the end."""
    shutil.copytree(folder / "checkpoints", tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


def losses(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    return {int(step): float(loss) for step, loss in re.findall(r"step (\d+): ([\d.]+)", card)}


# What is saved


@pytest.mark.parametrize("way", WAYS)
def test_both_ways_of_loading_give_the_same_trained_vectors(trained, name, way, embedding):
    folder = trained(name, way)
    ours = vectors_of(folder)
    prompt = LG_ANNA.head(TOPIC, EXAMPLES) + PROMPT + LG_ANNA.tail(TOPIC)
    np.testing.assert_allclose(plain(folder).encode([prompt, PROMPT]), ours, rtol=0, atol=1e-5)
    before = np.array([embedding.get_query_embedding(PROMPT), embedding.get_text_embedding(PROMPT)])
    assert (np.abs(ours - before).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("decoder", ["llama", "gpt2"])  # GPT-2 keeps its weights the other way round
def test_adapters_alone_give_the_vectors_of_the_merged_model(trained, decoder_folders, decoder, tmp_path):
    settings = replace(QUICK, merge=False)
    alone = train_incontext(SETS, str(decoder_folders[decoder]), tmp_path / "alone", settings=settings)
    assert (alone / "adapter_config.json").is_file() and not (alone / "model.safetensors").exists()
    np.testing.assert_allclose(vectors_of(alone), vectors_of(trained(decoder)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(plain(alone).encode(PROMPT), vectors_of(alone)[1], rtol=0, atol=1e-5)


def test_only_the_adapters_learn(trained, decoder_folders):
    """What no linear layer holds stays as it was."""
    base, learnt = weights(decoder_folders["llama"]), weights(trained("llama"))
    stripped = {name.removeprefix("model."): weight for name, weight in base.items()}
    changed = {name for name, weight in learnt.items() if not torch.equal(weight, stripped[name])}
    linear = {name for name in learnt if "proj" in name}
    assert changed <= linear and len(changed) > len(linear) // 2


def test_all_weights_learn(trained, decoder_folders):
    base, learnt = weights(decoder_folders["llama"]), weights(trained("llama", "all weights"))
    assert not any(torch.equal(weight, base[f"model.{name}"]) for name, weight in learnt.items())


def test_under_autocast_weights_are_kept_in_full(decoder_folders, tmp_path):
    settings = replace(WAYS["all weights"], bf16=True, epochs=1)
    train_incontext(SETS[:1], str(decoder_folders["llama"]), tmp_path, settings=settings)
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights(tmp_path).values())


def test_gradient_checkpointing_changes_no_weight(trained, decoder_folders, tmp_path):
    settings = replace(WAYS["all weights"], gradient_checkpointing=True)
    folder = train_incontext(SETS, str(decoder_folders["llama"]), tmp_path, settings=settings)
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, weights(trained("llama", "all weights"))[name], rtol=1e-4, atol=1e-5)


def test_a_sentence_encoder_keeps_its_pooling(encoder_base, tmp_path):
    settings = replace(WAYS["all weights"], template="bare", most_examples=0)
    folder = train_incontext([replace(SETS[0], task="")], str(encoder_base), tmp_path / "out", settings=settings)
    model, base = plain(folder), plain(encoder_base)
    assert [type(module) for module in model] == [type(module) for module in base]
    assert model[1].pooling_mode == base[1].pooling_mode == "mean"
    assert np.abs(model.encode(PROMPT) - base.encode(PROMPT)).max() > 1e-3
    states = model.encode(PROMPT, output_value="token_embeddings")
    np.testing.assert_allclose(model.encode(PROMPT), states.mean(dim=0), rtol=0, atol=1e-5)


# What is learnt


@pytest.fixture(scope="module")
def taught(decoder_folders, tmp_path_factory):
    """Eight questions learnt by heart, with soft labels that turn the base's order of the negatives round."""
    base = read(decoder_folders["llama"], examples=())
    rows = []
    for thing in THINGS:
        others = [other for other in THINGS if other != thing][:3]
        query = np.array(base.get_query_embedding(f"order a {thing}"))
        falling = sorted(others, key=lambda other: -query @ np.array(base.get_text_embedding(other)))
        rows.append(MinedRow(f"order a {thing}", thing, tuple(falling), (1.0, 0.85, 0.9, 0.95)))
    settings = InContextTrainingSettings(
        batch_size=8,
        epochs=40,
        learning_rate=1e-2,
        temperature=0.05,
        soft_weight=4.0,
        most_examples=1,
        lora_rank=0,
        bf16=False,
    )
    output = tmp_path_factory.mktemp("taught") / "llama"
    folder = train_incontext(
        [TrainingSet("things", rows, TOPIC)], str(decoder_folders["llama"]), output, settings=settings
    )
    return rows, base, read(folder, examples=()), folder


def cosines(model, rows):
    """Of each query with its positive and negatives."""
    queries = np.array(model.get_query_embeddings([row.query for row in rows]))
    groups = [np.array(model.get_text_embedding_batch([row.positive, *row.negatives])) for row in rows]
    return np.array([group @ query for group, query in zip(groups, queries, strict=True)])


def test_the_loss_falls(taught):
    steps = losses(taught[-1])
    assert list(steps) == [20, 40] and steps[40] < 0.8 * steps[20]


def test_positives_come_first(taught):
    rows, base, model, _ = taught
    things = np.array(model.get_text_embedding_batch(list(THINGS)))
    queries = np.array(model.get_query_embeddings([row.query for row in rows]))
    assert (queries @ things.T).argmax(axis=1).tolist() == list(range(8))
    assert (cosines(base, rows).argmax(axis=1) > 0).sum() >= 4


def test_positives_come_first_with_an_example_too(taught):
    rows, _, model, _ = taught
    shown = model.with_task(TOPIC, [(rows[0].query, rows[0].positive)])
    assert (cosines(shown, rows[1:]).argmax(axis=1) == 0).all()


def test_soft_labels_turn_the_order_to_the_teachers(taught):
    rows, base, model, _ = taught
    assert (np.diff(cosines(base, rows)[:, 1:]) < 0).all()
    assert (np.diff(cosines(model, rows)[:, 1:]) > 0).mean() > 0.8


# The loss


def losses_of(base, found, tmp_path, settings=WAYS["all weights"]):
    """The loss of a set, and features and labels of any of its rows."""
    settings = replace(settings, most_examples=0)
    trainer = prepare([found], str(base), tmp_path, settings, ())
    model = trainer.model.eval()

    def terms(*places):
        columns = found.columns()
        rows = [{key: value[i] for key, value in columns.items()} | {"dataset_name": found.name} for i in places]
        features, labels = trainer.collect_features(trainer.data_collator(rows))
        with torch.no_grad():
            return GroupLoss(model, settings, found)(features, labels)

    return terms


@pytest.mark.parametrize(
    ("kind", "alone"), [("classification", True), ("clustering", True), ("retrieval", False), ("similarity", False)]
)
def test_only_some_kinds_are_compared_with_the_positives_of_other_rows(decoder_folders, tmp_path, kind, alone):
    rows = [MinedRow("one", "glad", ("sad",)), MinedRow("two", "calm", ("cross",))]
    terms = losses_of(decoder_folders["llama"], TrainingSet("moods", rows, TOPIC, kind), tmp_path)
    both, apart = terms(0, 1)["contrast"], (terms(0)["contrast"] + terms(1)["contrast"]) / 2
    assert (both > apart + 1e-3) != alone and torch.isclose(both, apart, atol=1e-4) == alone


def test_a_document_known_to_answer_is_no_negative(decoder_folders, tmp_path):
    rows = [MinedRow("one", "glad", ("sad",)), MinedRow("two", "calm", ("cross",))]
    extra = [("one", "calm"), ("one", "cross"), ("two", "glad"), ("two", "sad")]
    also = [*rows, *(MinedRow(query, answer, ("ok",)) for query, answer in extra)]
    terms = losses_of(decoder_folders["llama"], TrainingSet("moods", also, TOPIC), tmp_path)
    kept = losses_of(decoder_folders["llama"], TrainingSet("moods", rows, TOPIC), tmp_path)
    first, second = terms(0, 1)["contrast"], (kept(0)["contrast"] + kept(1)["contrast"]) / 2
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scores", "asked", "wanted"),
    [((0.9, 0.2, 0.4), None, BOUNDED_TEMPERATURE), ((6.0, -1.0, 2.0), None, 1.0), ((0.9, 0.2, 0.4), 0.7, 0.7)],
)
def test_the_terms_are_those_of_the_objective(decoder_folders, tmp_path, scores, asked, wanted):
    rows = [MinedRow(f"order a {thing}", thing, ("ok", "charm"), scores) for thing in THINGS[:3]]
    settings = replace(QUICK, lora_rank=0, temperature=0.07, soft_weight=3.0, teacher_temperature=asked)
    found = losses_of(decoder_folders["llama"], TrainingSet("things", rows, TOPIC), tmp_path, settings)(0, 1, 2)
    model = read(decoder_folders["llama"], examples=())
    queries = torch.tensor(model.get_query_embeddings([row.query for row in rows]))
    texts = [[row.positive, *row.negatives] for row in rows]
    documents = torch.tensor([model.get_text_embedding_batch(group) for group in texts])
    teacher = torch.tensor([scores] * 3)
    assert found.keys() == {"contrast", "distillation"}
    torch.testing.assert_close(found["contrast"], contrast(queries, documents, 0.07), rtol=1e-4, atol=1e-4)
    soft = 3.0 * distillation(queries, documents, teacher, 0.07, wanted)
    torch.testing.assert_close(found["distillation"], soft, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("why", ["no scores", "no weight", "no negatives"])
def test_without_soft_labels_there_is_one_term(decoder_folders, tmp_path, why):
    negatives = () if why == "no negatives" else ("ok",)
    scores = () if why == "no scores" else (0.9, 0.1)[: 1 + len(negatives)]
    rows = [MinedRow(f"order a {thing}", thing, negatives, scores) for thing in THINGS[:2]]
    settings = replace(QUICK, lora_rank=0, soft_weight=0.0 if why == "no weight" else 1.0)
    terms = losses_of(decoder_folders["llama"], TrainingSet("things", rows, TOPIC), tmp_path, settings)
    assert list(terms(0, 1)) == ["contrast"]


# Stopped and resumed


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_goes_on_to_the_same_weights(decoder_folders, way, tmp_path, monkeypatch):
    """Killed in the second epoch, behind a checkpoint, with dropout and drawn examples."""
    settings, compute, seen = replace(WAYS[way], epochs=2), GroupLoss.forward, []

    def dying(self, *args):
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return compute(self, *args)

    base = str(decoder_folders["gpt2"])
    whole = train_incontext(SETS, base, tmp_path / "whole", settings=settings)
    monkeypatch.setattr(GroupLoss, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        train_incontext(SETS, base, tmp_path / "killed", settings=settings)
    assert not (tmp_path / "killed" / "config.json").exists()
    seen[:] = [1] * 1000
    train_incontext(SETS, base, tmp_path / "killed", settings=settings)
    assert len(seen) - 1000 == 2 * STEPS - settings.save_steps
    same_weights(whole, tmp_path / "killed")


CHANGED = {
    "settings": (SETS, "gpt2", replace(QUICK, temperature=0.1)),
    "rows": ((replace(SETS[0], rows=ANSWERED[::-1]), SETS[1]), "gpt2", QUICK),
    "task": ((replace(SETS[0], task="Other."), SETS[1]), "gpt2", QUICK),
    "base": (SETS, "opt", QUICK),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_checkpoints_of_another_run_are_refused(trained, decoder_folders, tmp_path, changed):
    sets, base, settings = CHANGED[changed]
    with pytest.raises(ConfigurationError, match="expected checkpoints of this run"):
        train_incontext(sets, str(decoder_folders[base]), copied(trained("gpt2"), tmp_path), settings=settings)


def test_without_resume_it_starts_anew(trained, decoder_folders, tmp_path):
    output = copied(trained("llama"), tmp_path)
    settings = WAYS["all weights"]
    train_incontext(SETS, str(decoder_folders["llama"]), output, settings=settings, resume=False)
    same_weights(trained("llama", "all weights"), output)


def test_a_finished_run_is_not_run_again(trained, decoder_folders, tmp_path, monkeypatch):
    output = copied(trained("gpt2"), tmp_path)
    monkeypatch.setattr(GroupLoss, "forward", None)
    train_incontext(SETS, str(decoder_folders["gpt2"]), output, settings=QUICK)
    same_weights(trained("gpt2"), output)


# Evaluation during training


def test_an_evaluator_asks_as_the_embedding_does():
    data = small_set(queries=[Query("q0", "a watch", "Find the watch."), *small_set().queries[1:]])
    evaluator = retrieval_evaluator(data, "lg-anna", TOPIC, EXAMPLES)
    asked = dict(zip(evaluator.queries_ids, evaluator.queries, strict=True))
    assert asked["q0"] == LG_ANNA.head("Find the watch.", EXAMPLES) + "a watch" + LG_ANNA.tail("Find the watch.")
    assert asked["q1"] == LG_ANNA.head(TOPIC, EXAMPLES) + ANSWERED[1].query + LG_ANNA.tail(TOPIC)


def test_an_evaluator_refuses_pools():
    with pytest.raises(ConfigurationError, match=r"shop: expected a set without candidates\.tsv"):
        retrieval_evaluator(small_set(pools=[np.arange(2)] * 8), "lg-anna", TOPIC)


@pytest.fixture(scope="module")
def evaluated(decoder_folders, tmp_path_factory):
    evaluators = [retrieval_evaluator(small_set(), "lg-anna", TOPIC, shown) for shown in ((), EXAMPLES)]
    output = tmp_path_factory.mktemp("evaluated") / "llama"
    settings = replace(WAYS["all weights"], eval_steps=2)
    return train_incontext(SETS, str(decoder_folders["llama"]), output, settings=settings, evaluators=evaluators)


def test_evaluations_stand_on_the_card(evaluated):
    card = (evaluated / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\S.*)_cosine_(\S+) \| (\d\.\d{4}) \|$", card, re.MULTILINE)
    assert {name for step, name, _, _ in rows if step == "2"} == {"shop", "shop, 2 examples"}
    assert {measure for _, _, measure, _ in rows} == {"ndcg@10", "map@100"}


def test_evaluation_changes_no_weight(evaluated, trained):
    same_weights(evaluated, trained("llama", "all weights"))


# The card


def test_the_card_says_what_it_was_trained_on_and_how(trained, decoder_folders):
    card = (trained("llama") / "README.md").read_text(encoding="utf-8")
    assert f"| orders | retrieval | 8 | 2 | yes | {TOPIC} | made up, CC0 |" in card
    assert "| moods | classification | 4 | 1 | no | Glad or sad? | not given |" in card
    assert "All of it is made up." in card and "None were asked for." in card
    assert json.loads(card.split("```json\n")[1].split("```")[0]) == asdict(QUICK)
    assert "from `llama`" in card and str(decoder_folders["llama"].parent) not in card


def test_no_file_beside_the_checkpoints_names_the_folder_of_the_base(trained, decoder_folders):
    place = str(decoder_folders["llama"].parent).encode()
    files = [path for path in trained("llama").glob("**/*") if path.is_file() and "checkpoints" not in path.parts]
    assert len(files) > 5 and not [path for path in files if place in path.read_bytes()]


# Faults


def test_no_sets(decoder_folders, tmp_path):
    with pytest.raises(ConfigurationError, match="sets: expected at least one"):
        train_incontext([], str(decoder_folders["llama"]), tmp_path)


def test_two_sets_of_one_name(decoder_folders, tmp_path):
    with pytest.raises(ConfigurationError, match="sets: expected different names, found orders, orders"):
        train_incontext([SETS[0], SETS[0]], str(decoder_folders["llama"]), tmp_path)


def test_several_processes(decoder_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="training: expected one process"):
        train_incontext(SETS, str(decoder_folders["llama"]), tmp_path)


def test_a_base_that_is_nowhere(tmp_path):
    with pytest.raises(ConfigurationError, match="expected an existing folder"):
        train_incontext(SETS, str(tmp_path / "nowhere"), tmp_path / "out")


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"base model .*empty: cannot be loaded"):
        load_for_training(str(tmp_path / "empty"), find_template("lg-anna"))


@pytest.mark.parametrize(
    ("missing", "rank", "told"),
    [("accelerate", 0, True), ("datasets", 0, True), ("peft", 4, True), ("peft", 0, False)],
)
def test_a_missing_extra_is_told_and_exists(encoder_base, tmp_path, monkeypatch, missing, rank, told):
    monkeypatch.setattr(training, "find_spec", lambda name: None if name == missing else name)
    settings = replace(QUICK, lora_rank=rank, epochs=0.5)
    if not told:
        assert train_incontext(SETS[1:], str(encoder_base), tmp_path, settings=settings) == tmp_path
        return
    with pytest.raises(MissingExtraError, match="llama-index-instruct") as caught:
        train_incontext(SETS, str(encoder_base), tmp_path, settings=settings)
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert re.search(rf"^{caught.value.extra} = \[[^\]]*{missing}", extras, re.MULTILINE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, 0) for field in ("epochs", "batch_size", "learning_rate", "temperature", "teacher_temperature")),
        *((field, 0) for field in ("query_tokens", "passage_tokens", "example_tokens", "lora_alpha", "save_steps")),
        *((field, -0.1) for field in ("warmup", "weight_decay", "soft_weight", "lora_dropout")),
        *((field, -1) for field in ("most_examples", "lora_rank")),
        ("eval_steps", 0),
        ("lora_dropout", 1.0),
        ("learning_rate", float("nan")),
        ("soft_weight", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigurationError, match=f"{field}: expected"):
        InContextTrainingSettings(**{field: value})


# The command line


def mined_files(tmp_path):
    return [write_rows(tmp_path / f"{found.name}.jsonl", [asdict(row) for row in found.rows]) for found in SETS]


def command(files, base, output, *more):
    rows = [part for path in files for part in ("--rows", path)]
    quick = ("--batch-size", 4, "--learning-rate", 1e-2, "--most-examples", 2, "--lora-rank", 4)
    return run("train", "incontext", *rows, "--base", base, "--output", output, *quick, *more)


def test_the_command_trains_a_checkpoint(decoder_folders, tmp_path):
    (tmp_path / "licences.md").write_text("Made up, CC0.", encoding="utf-8")
    output = tmp_path / "new" / "out"
    each = ("--task", TOPIC, "--task", "Glad or sad?", "--kind", "retrieval", "--kind", "classification")
    more = ("--dev", write_beir(tmp_path / "shop", small_set()), "--licences", tmp_path / "licences.md", "--seed", 3)
    result = command(mined_files(tmp_path), decoder_folders["llama"], output, *each, *more)
    assert result.exit_code == 0, result.output
    assert f"written: {output}" in result.output
    card = (output / "README.md").read_text(encoding="utf-8")
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    asked = {"batch_size": 4, "learning_rate": 1e-2, "most_examples": 2, "lora_rank": 4, "seed": 3, "epochs": 1.0}
    assert settings.items() >= asked.items()
    assert f"| orders | retrieval | 8 | 2 | yes | {TOPIC} |" in card
    assert "| moods | classification | 4 | 1 | no | Glad or sad? |" in card
    assert "Made up, CC0." in card and "| 3 | shop_cosine_ndcg@10 |" in card  # at the end of each epoch
    assert np.isfinite(vectors_of(output)).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--task", "One.", "--task", "Two.", "--task", "Three."), "task: expected one for all or one for each of 2"),
        (("--kind", "retrieval", "--kind", "ranking"), "kind"),
        (("--template", "chat"), "template: expected one of"),
        (("--epochs", 0), "epochs: expected more than 0"),
        (("--rows", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--rows", "odd.jsonl"), "odd.jsonl, line 1"),
        (("--dev", "nowhere"), "corpus.jsonl"),
        (("--licences", "nowhere.md"), "nowhere.md"),
        (("--base", "nowhere"), "nowhere"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, changed, said):
    (tmp_path / "odd.jsonl").write_text("{\n")
    (tmp_path / "empty").mkdir()
    files = {"--rows", "--dev", "--licences", "--base"}
    more = [tmp_path / value if changed[0] in files and i % 2 else value for i, value in enumerate(changed)]
    result = command(mined_files(tmp_path), tmp_path / "empty", tmp_path / "out", *more)
    assert said in refused(result) and not (tmp_path / "out" / "README.md").exists()
