import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click import unstyle
from fakes import WordEmbedding
from inbedder.small_training import MOOD, MOODS, THING, THINGS, save_tiny, triples, word_vectors
from safetensors.torch import load_file, save_file
from typer.main import get_command
from typer.testing import CliRunner

from llama_index_instruct.cli import app
from llama_index_instruct.evaluation import inbedder_bench
from llama_index_instruct.inbedder import trainer, training
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.inbedder.weights import is_quantized

WIDE = {"COLUMNS": "2000", "NO_COLOR": "1"}


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env=WIDE)


def refused(result, kind="ConfigurationError"):
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.exception, result.output)
    lines = [line for line in result.stderr.splitlines() if "%|" not in line and line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{kind}: ") and "Traceback" not in result.output
    return lines[0]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# bench inbedder


def triplet_rows(count=6, corpus="shop"):
    moods, things = list(MOODS), list(THINGS)
    return [
        {
            "corpus": corpus,
            "facet_a": "mood",
            "facet_b": "thing",
            "instruction_a": MOOD,
            "instruction_b": THING,
            "anchor": f"{moods[n % 3]} {things[n % 4]} note{n}",
            "same_a": f"{moods[n % 3]} {things[(n + 1) % 4]} note{n + 1}",
            "same_b": f"{moods[(n + 1) % 3]} {things[n % 4]} note{n + 2}",
        }
        for n in range(count)
    ]


def faceted(folder):
    folder.mkdir()
    (folder / "facets.json").write_text(json.dumps({"mood": {"instruction": MOOD}, "thing": {"instruction": THING}}))
    moods, things = list(MOODS), list(THINGS)
    rows = [
        {"_id": str(n), "text": f"{moods[n % 3]} {things[n % 4]} word{n}", "mood": moods[n % 3], "thing": things[n % 4]}
        for n in range(24)
    ]
    write(folder / f"{folder.name}.jsonl", rows)
    return folder


@pytest.fixture
def words(monkeypatch):
    """No model is loaded: all are blind."""
    asked = []

    def load_embedder(name):
        asked.append(name)
        return lambda texts, instruction: np.array(
            WordEmbedding().get_text_embedding_batch(list(texts)), dtype=np.float32
        )

    monkeypatch.setattr(inbedder_bench, "load_embedder", load_embedder)
    return asked


def test_bench_writes_the_record_and_prints_it(tmp_path, words):
    data, output = write(tmp_path / "triplets.jsonl", triplet_rows()), tmp_path / "new" / "folder" / "record.json"
    arguments = ("--triplets", data, "--facets", faceted(tmp_path / "shop"), "--facets", faceted(tmp_path / "market"))
    result = run("bench", "inbedder", *arguments, "--output", output, "--rows", 12, "--seed", 4, "--no-speed")
    assert result.exit_code == 0, result.output
    record = json.loads(output.read_text())
    assert set(record) == {"bench", "settings", "triplets", "clusters", "speed", "means"}
    assert record["bench"] == "inbedder" and record["speed"] == {}
    models = ["minilm", "prefix:minilm", "inbedder-minilm"]
    assert words == models and record["settings"] == {"models": models, "rows": 12, "seed": 4}
    assert list(record["triplets"]) == ["shop:mood/thing"]
    assert list(record["clusters"]) == ["shop/mood", "shop/thing", "market/mood", "market/thing"]
    for name in models:
        assert set(record["triplets"]["shop:mood/thing"][name]) == {"a", "b", "mean", "harmonic"}
        assert record["triplets"]["shop:mood/thing"][name]["mean"] == pytest.approx(50)
        assert all(set(row[name]) == {"v_measure"} for row in record["clusters"].values())
    assert f"written: {output}" in result.output and "shop:mood/thing" in result.output
    assert "market/thing" in result.output and all(name in result.output for name in models)


def test_bench_with_other_wordings(tmp_path, words):
    wordings = {question: {"paraphrases": ["One?", "Two?"], "wrong": ["Three?"]} for question in (MOOD, THING)}
    path = tmp_path / "wordings.json"
    path.write_text(json.dumps(wordings))
    arguments = ("--triplets", write(tmp_path / "t.jsonl", triplet_rows()), "--wordings", path, "--per-pair", 3)
    result = run("bench", "inbedder", *arguments, "--model", "a", "--output", tmp_path / "r.json", "--no-speed")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert set(record["robustness"]["shop:mood/thing"]["a"]) == {"paraphrased", "worst", "wrong"}
    thirds = 3 * record["triplets"]["shop:mood/thing"]["a"]["a"] / 100
    assert thirds == pytest.approx(round(thirds))
    said = " ".join(result.output.split())  # titles are as wide as their tables
    assert "under other wordings" in said and "under wrong questions" in said


def test_bench_on_real_models(tmp_path, bases):
    data = write(tmp_path / "triplets.jsonl", triplet_rows())
    models = ("--model", "minilm", "--model", bases["bert"])
    result = run("bench", "inbedder", "--triplets", data, *models, "--output", tmp_path / "r.json", "--no-speed")
    assert result.exit_code == 0, result.output
    row = json.loads((tmp_path / "r.json").read_text())["triplets"]["shop:mood/thing"]
    assert list(row) == ["minilm", "bert"] and row["minilm"]["mean"] == pytest.approx(50, abs=1e-9)
    assert 0 <= row["bert"]["mean"] <= 100


@pytest.mark.parametrize(
    ("changed", "words_said"),
    [
        ({"--rows": 9}, "rows: expected 10 or more, found 9"),
        ({"--per-pair": 0}, "per_pair"),
        ({"--triplets": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"--triplets": "odd.jsonl"}, "odd.jsonl, line 1"),
        ({"--triplets": "empty.jsonl"}, "empty.jsonl: expected triplets, found none"),
        ({"--facets": "nowhere"}, "expected nowhere.jsonl"),
        ({"--wordings": "nowhere.json"}, "nowhere.json"),
        ({"--wordings": "odd.jsonl"}, "odd.jsonl: expected wordings per instruction"),
        ({"--wordings": "other.json"}, MOOD),
    ],
)
def test_a_wrong_bench_is_one_line(tmp_path, words, changed, words_said):
    write(tmp_path / "triplets.jsonl", triplet_rows())
    (tmp_path / "odd.jsonl").write_text("{\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "other.json").write_text('{"Q?": {"paraphrases": ["a"], "wrong": ["b"]}}')
    files = {"--triplets": "triplets.jsonl", **changed}
    options = {key: value if isinstance(value, int) else tmp_path / value for key, value in files.items()}
    output = tmp_path / "r.json"
    arguments = (part for pair in options.items() for part in pair)
    result = run("bench", "inbedder", *arguments, "--model", "a", "--output", output, "--no-speed")
    assert words_said in refused(result) and not output.exists()


@pytest.mark.parametrize(
    ("models", "words_said"),
    [
        (("minilm", "minilm"), "expected different models"),
        (("./nowhere",), "expected an existing folder"),
        (("prefix:./nowhere",), "expected an existing folder"),
        (("no-such-model",), "no-such-model"),
        (("prefix:inbedder-minilm",), "inbedder-minilm"),
    ],
)
def test_a_wrong_model_is_one_line(tmp_path, models, words_said):
    data, output = write(tmp_path / "t.jsonl", triplet_rows(2)), tmp_path / "r.json"
    chosen = (part for name in models for part in ("--model", name))
    result = run("bench", "inbedder", "--triplets", data, *chosen, "--output", output, "--no-speed")
    assert words_said in refused(result) and not output.exists()


# train inbedder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {family: save_tiny(family, folder / family) for family in ("bert", "gpt2", "t5")}


@pytest.fixture(autouse=True)
def frozen_words(monkeypatch):
    """The sentence encoder behind the targets."""
    monkeypatch.setattr(trainer, "embed_answers", word_vectors)


def triple_rows():
    return [
        {"paragraph": row.paragraph, "question": row.question, "answer": row.answer, "source": "letters of ours"}
        for row in triples()[:12]
    ]


def domain(name="shops"):
    sentences = {
        "mood": {mood: [f"{mood} {part}" for part in parts.split()] for mood, parts in MOODS.items()},
        "thing": {thing: [f"{thing} {part}" for part in parts.split()] for thing, parts in THINGS.items()},
    }
    questions = {"mood": [MOOD], "thing": [THING]}
    return {
        "domain": name,
        "facets": [{"name": f, "questions": questions[f], "labels": sentences[f]} for f in ("mood", "thing")],
        "texts": [{"text": "furious about the printer", "labels": {"mood": "angry", "thing": "printer"}}],
    }


@pytest.fixture
def data(tmp_path):
    (tmp_path / "licences.md").write_text("All of it is CC0.", encoding="utf-8")
    return {
        "--triples": write(tmp_path / "triples.jsonl", triple_rows()),
        "--domains": write(tmp_path / "domains.jsonl", [domain()]),
        "--licences": tmp_path / "licences.md",
    }


def train(data, base, output, **changes):
    options = {**data, "--base": base, "--output": output, "--encoder": "words", "--groups": 1, "--batch-size": 8}
    options |= {"--max-length": 128, **changes}
    arguments = (part for pair in options.items() if pair[1] is not None for part in pair)
    return run("train", "inbedder", *arguments, "--no-bf16")


@pytest.fixture
def steps(monkeypatch):
    """Batches the trainer has read."""
    counted = []
    compute_loss = trainer.AnswerTrainer.compute_loss

    def counting(self, *arguments, **named):
        counted.append(1)
        return compute_loss(self, *arguments, **named)

    monkeypatch.setattr(trainer.AnswerTrainer, "compute_loss", counting)
    return counted


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_training_writes_a_folder_that_loads(tmp_path, bases, data, family):
    output = tmp_path / "taught"
    result = train(data, bases[family], output)
    assert result.exit_code == 0, (result.exception, result.output)
    assert f"written: {output}" in result.output
    model = InBedderEmbedding(str(output), MOOD, dtype="float32", device="cpu")
    vectors = np.array(model.get_text_embedding_batch(["glad printer", "furious phone"]))
    assert vectors.shape == (2, 32) and np.isfinite(vectors).all()
    assert not np.allclose(vectors, model.with_instruction(THING).get_text_embedding_batch(["glad printer"] * 2))
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "| letters of ours | 12 |" in card and "| shops | 32 |" in card
    assert "All of it is CC0." in card and f"`{family}`" in card and "`words`" in card
    assert str(tmp_path) not in card and '"bf16": false' in card and '"batch_size": 8' in card


def test_without_licences_the_card_asks_for_them(tmp_path, bases, data):
    result = train(data, bases["bert"], tmp_path / "taught", **{"--licences": None, "--domains": None})
    assert result.exit_code == 0, (result.exception, result.output)
    card = (tmp_path / "taught" / "README.md").read_text(encoding="utf-8")
    assert "licences of the sources were not given" in card and "shops" not in card


def test_a_stopped_training_is_resumed(tmp_path, bases, data, steps, monkeypatch):
    output, card = tmp_path / "taught", training.write_model_card

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_model_card", stopped)
    assert train(data, bases["bert"], output).exit_code != 0 and not (output / "README.md").exists()
    first = len(steps)
    monkeypatch.setattr(training, "write_model_card", card)
    weights = load_file(output / "model.safetensors")
    result = train(data, bases["bert"], output)
    assert result.exit_code == 0, (result.exception, result.output)
    assert first >= 5 and len(steps) == first and (output / "README.md").is_file()
    again = load_file(output / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights | again)
    refusal = refused(train(data, bases["bert"], output, **{"--seed": 1}))
    assert "other data, base or settings" in refusal and len(steps) == first


@pytest.fixture
def caught(monkeypatch):
    """What the command asks to be trained, in the training's place."""
    calls = []

    def train_inbedder(data, base, output, **options):
        calls.append((data, options))
        return Path(output)

    monkeypatch.setattr(training, "train_inbedder", train_inbedder)
    return calls


def test_every_option_reaches_the_training(tmp_path, data, caught):
    more = {"--kind": "masked", "--epochs": 2.5, "--learning-rate": 0.01, "--seed": 7, "--groups": 3, "--limit": 4}
    result = train(data, "base", tmp_path / "taught", **more)
    assert result.exit_code == 0, (result.exception, result.output)
    ((rows, options),) = caught
    settings = options.pop("settings")
    assert options == {"kind": "masked", "encoder": "words", "data_notes": "All of it is CC0."}
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (2.5, 8, 0.01)
    assert (settings.max_length, settings.bf16, settings.seed) == (128, False, 7)
    sources = [row.source for row in rows]
    assert 4 <= sources.count("letters of ours") <= 5 and sources.count("shops") == 3 * 32


def test_gists_are_asked_for_by_the_group(tmp_path, data, caught):
    train(data, "base", tmp_path / "taught", **{"--gist-groups": 2, "--triples": None})
    ((rows, _),) = caught
    gists = [row for row in rows if row.is_gist]
    assert len({row.group for row in gists}) == 2 and len(rows) - len(gists) == 32


def test_models_are_averaged(tmp_path, bases):
    one, other = Path(bases["bert"]), tmp_path / "other"
    shutil.copytree(one, other)
    base = load_file(one / "model.safetensors")
    save_file({name: 4 * value for name, value in base.items()}, other / "model.safetensors", {"format": "pt"})
    weights = ("--weight", 2, "--weight", 1)
    result = run("train", "average", one, other, *weights, "--output", tmp_path / "mean")
    assert result.exit_code == 0, (result.exception, result.output)
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    assert all(torch.allclose(value, 2 * base[name], atol=1e-6) for name, value in mean.items())
    small = run("train", "average", one, other, *weights, "--output", tmp_path / "small", "--eight-bit")
    assert small.exit_code == 0 and is_quantized(str(tmp_path / "small"))


def test_averaging_says_what_is_wrong(tmp_path, bases):
    refusal = refused(run("train", "average", bases["bert"], "--weight", 0, "--output", tmp_path / "mean"))
    assert "weights: expected 1 numbers above 0" in refusal


def test_long_paragraphs_are_left_out(tmp_path, data, caught):
    write(data["--triples"], [*triple_rows(), {**triple_rows()[0], "paragraph": "long " * 50}])
    train(data, "base", tmp_path / "taught", **{"--longest": 40, "--domains": None})
    ((rows, _),) = caught
    assert len(rows) == 12 and not any(row.paragraph.startswith("long") for row in rows)


def test_several_files_count_together(tmp_path, data, caught):
    second = write(tmp_path / "more.jsonl", [{**row, "source": "more"} for row in triple_rows()])
    market = write(tmp_path / "market.jsonl", [domain("markets")])
    more = ("--triples", second, "--triples", data["--triples"], "--domains", market, "--domains", data["--domains"])
    result = run("train", "inbedder", *more, "--groups", 2, "--output", tmp_path / "taught", "--seed", 3)
    assert result.exit_code == 0, (result.exception, result.output)
    counts = {name: [row.source for row in caught[0][0]].count(name) for name in ("more", "letters of ours")}
    assert counts == {"more": 12, "letters of ours": 12}
    assert {row.source for row in caught[0][0][24:]} == {"shops", "markets"}


def test_a_file_of_domains_given_twice_counts_twice_in_other_compositions(tmp_path, data, caught):
    once, twice = ("--domains", data["--domains"]), ("--domains", data["--domains"]) * 2
    for arguments in (once, twice):
        result = run("train", "inbedder", *arguments, "--groups", 2, "--output", tmp_path / "taught")
        assert result.exit_code == 0, (result.exception, result.output)
    (first, _), (both, _) = caught
    assert len(first) == 64 and len(both) == 128 and both[:64] == first and both[64:] != first


def test_the_groups_of_a_file_given_twice_stay_apart(tmp_path, data, caught):
    # A group is one draw of two questions and their texts; two draws of one name would share pieces of 32.
    arguments = ("--domains", data["--domains"]) * 2
    run("train", "inbedder", *arguments, "--groups", 2, "--output", tmp_path / "taught")
    ((rows, _),) = caught
    assert [[row.group for row in rows].count(group) for group in {row.group for row in rows}] == [32] * 4


@pytest.mark.parametrize(
    ("changed", "words_said"),
    [
        ({"--kind": "nonsense"}, "kind: expected 'causal' or 'masked', found 'nonsense'"),
        ({"--kind": "seq2seq"}, "kind: expected 'causal' or 'masked'"),
        ({"--triples": None, "--domains": None}, "triples: expected at least one"),
        ({"--triples": None, "--groups": 0}, "triples: expected at least one"),
        ({"--epochs": 0}, "epochs: expected more than 0"),
        ({"--batch-size": 0}, "batch_size: expected more than 0"),
        ({"--learning-rate": -1}, "learning_rate: expected more than 0"),
        ({"--base": "./nowhere"}, "expected an existing folder"),
        ({"--base": "no-such-model"}, "no-such-model"),
        ({"--base": "t5"}, "found an encoder-decoder"),
        ({"--base": "inbedder-minilm"}, "expected full weights"),
        ({"--triples": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"--triples": "odd.jsonl"}, "odd.jsonl, line 2"),
        ({"--domains": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"--domains": "odd.jsonl"}, "odd.jsonl, line 1"),
        ({"--licences": "nowhere.md"}, "nowhere.md"),
    ],
)
def test_a_wrong_training_is_one_line(tmp_path, bases, data, changed, words_said):
    write(tmp_path / "odd.jsonl", [triple_rows()[0], {"paragraph": "a"}])
    for option in ("--triples", "--domains", "--licences"):
        if changed.get(option):
            changed = {option: tmp_path / changed[option]}
    base = changed.get("--base", "bert")
    result = train(
        data, bases.get(base, base), tmp_path / "taught", **{k: v for k, v in changed.items() if k != "--base"}
    )
    assert words_said in refused(result) and not (tmp_path / "taught" / "README.md").exists()


@pytest.mark.parametrize(("group", "name"), [("bench", "inbedder"), ("train", "inbedder")])
def test_help_lists_every_option_of_inbedder(group, name):
    result = run(group, name, "--help")
    assert result.exit_code == 0
    listed = unstyle(result.output)
    options = {
        option for parameter in get_command(app).commands[group].commands[name].params for option in parameter.opts
    }
    assert len(options) >= 9 and all(f"{option} " in listed for option in options)


def test_help_lists_train():
    assert "train" in unstyle(run("--help").output) and "inbedder" in unstyle(run("train", "--help").output)
