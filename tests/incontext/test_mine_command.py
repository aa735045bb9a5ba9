"""``llama-index-instruct mine``: a file of pairs becomes a file of mined rows."""

import importlib
import json

import pytest
from fakes import WordEmbedding
from incontext.sentence_encoders import save_sentence_encoder
from sentence_transformers import SentenceTransformer
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from llama_index_instruct.cli import app
from llama_index_instruct.incontext.mined import read_mined

WIDE = {"COLUMNS": "2000", "NO_COLOR": "1"}
MOODS = ("happy glad", "angry furious", "calm quiet")
THINGS = ("printer ink", "router signal", "laptop screen", "phone call")
PAIRS = [
    {"query": f"{mood} {thing}", "positive": f"note {mood} {thing} {m}{t}"}
    for m, mood in enumerate(MOODS)
    for t, thing in enumerate(THINGS)
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_sentence_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture
def words(monkeypatch):
    monkeypatch.setattr("llama_index_instruct.models.load_embed_model", lambda name: WordEmbedding())


@pytest.fixture
def pairs(tmp_path):
    return write_lines(tmp_path / "pairs.jsonl", PAIRS)


def write_lines(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def run(*arguments):
    with threadpool_limits(1):
        return CliRunner().invoke(app, ["mine", *map(str, arguments)], env=WIDE)


def refused(result):
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.exception, result.output)
    lines = [line for line in result.stderr.splitlines() if "%|" not in line and line.strip()]
    assert len(lines) == 1 and "Traceback" not in result.output, lines
    return lines[0]


def test_mine_with_a_model_in_a_folder(pairs, encoder, tmp_path):
    output = tmp_path / "new" / "mined.jsonl"
    passages = write_lines(tmp_path / "passages.jsonl", [{"text": f"other {mood}"} for mood in MOODS])
    arguments = ("--pairs", pairs, "--passages", passages, "--output", output, "--embed-model", encoder)
    result = run(*arguments, "--rule", "topk", "--negatives", 2, "--sample-from", 5, "--seed", 3)
    assert result.exit_code == 0, result.output
    mined = read_mined(output)
    assert [(row.query, row.positive) for row in mined] == [(row["query"], row["positive"]) for row in PAIRS]
    known = {row["positive"] for row in PAIRS} | {f"other {mood}" for mood in MOODS}
    assert all(len(row.negatives) == 2 and known - {row.positive} >= set(row.negatives) for row in mined)
    similarity = SentenceTransformer(str(encoder), device="cpu")
    vectors = similarity.encode([mined[0].query, mined[0].positive, *mined[0].negatives], normalize_embeddings=True)
    assert mined[0].scores == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-5)
    assert "12 queries, 168 candidates, 168 may be negatives; 12 rows, 0 pairs dropped" in result.output
    assert f"written: {output}" in result.output


def test_mine_says_what_was_removed(pairs, words, tmp_path):
    output = tmp_path / "mined.jsonl"
    result = run("--pairs", pairs, "--output", output, "--rule", "topk-shifted")
    assert result.exit_code == 0, result.output
    assert "12 queries, 132 candidates, 12 may be negatives; 0 rows, 12 pairs dropped" in result.output
    assert "removed by skip_top: 120" in result.output and result.output.count(" against ") == 3


def test_mine_goes_on_from_a_checkpoint(pairs, words, tmp_path, monkeypatch):
    asked = []

    def lengths(query, passages):
        asked.append(query)
        return [len(passage) / 100 for passage in passages]

    # The package's own name "mine" is the command.
    module = importlib.import_module("llama_index_instruct.cli.mine")
    monkeypatch.setattr(module, "mining_teacher", lambda name: lengths)
    arguments = ("--pairs", pairs, "--output", tmp_path / "mined.jsonl", "--checkpoint", tmp_path / "kept")
    assert run(*arguments, "--rule", "topk").exit_code == 0 and len(asked) == 12
    assert run(*arguments, "--rule", "topk-abs").exit_code == 0 and len(asked) == 12


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rule", "nearest"), "rule: expected a MarginRule or one of adaptive"),
        (("--teacher", "gold"), "teacher: expected 'similarity', 'hybrid'"),
        (("--teacher", "hybrid", "--lexical", 0), "'hybrid' expects lexical > 0"),
        (("--teacher", "cross-encoder:/nowhere"), "found nothing at /nowhere"),
        (("--negatives", 0), "num_negatives: expected 1 or more, found 0"),
        (("--negatives", 5, "--sample-from", 4), "sample_from: expected num_negatives=5 or more, found 4"),
        (("--lexical", -1), "lexical: expected 0 or more, found -1"),
        (("--lexical", 0, "--dense", 0), "candidates: expected lexical > 0, or an embedding model and dense > 0"),
        (("--pairs", "/nowhere.jsonl"), "/nowhere.jsonl: cannot be read"),
        (("--passages", "/nowhere.jsonl"), "/nowhere.jsonl: cannot be read"),
        (("--llm", "m"), "OPENAI_API_KEY: expected a key in the environment, or --llm-base"),
    ],
)
def test_bad_settings_are_one_line(pairs, words, tmp_path, monkeypatch, more, said):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert said in refused(run("--pairs", pairs, "--output", tmp_path / "mined.jsonl", *more))


@pytest.mark.parametrize(("content", "said"), [("", "expected at least one query"), ("{}\n", "pairs.jsonl, line 1")])
def test_bad_pairs_are_one_line(words, tmp_path, content, said):
    (tmp_path / "pairs.jsonl").write_text(content)
    assert said in refused(run("--pairs", tmp_path / "pairs.jsonl", "--output", tmp_path / "mined.jsonl"))


def test_a_passage_without_text_is_one_line(pairs, words, tmp_path):
    passages = write_lines(tmp_path / "passages.jsonl", [{"text": "a printer"}, {"title": "a printer"}])
    found = refused(run("--pairs", pairs, "--passages", passages, "--output", tmp_path / "mined.jsonl"))
    assert "passages.jsonl, line 2: missing text" in found


def test_an_output_that_is_a_folder_is_one_line(pairs, words, tmp_path):
    assert str(tmp_path) in refused(run("--pairs", pairs, "--output", tmp_path))
