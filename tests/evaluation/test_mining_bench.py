"""Planted hidden positives and hard negatives: the shipped file, and small ones counted by hand."""

import json
from pathlib import Path

import pytest
from fakes import WordEmbedding
from typer.testing import CliRunner

from llama_index_instruct import ConfigurationError
from llama_index_instruct.cli import app
from llama_index_instruct.evaluation import mining_bench
from llama_index_instruct.evaluation.mining_bench import Planted, bench_mining, gold_teacher, load_planted
from llama_index_instruct.incontext.margins import NAIVE, RULES, MarginRule

SHIPPED = Path(__file__).parents[2] / "examples" / "data" / "planted.jsonl"
SMALL = [
    Planted(f"query {thing}", f"answer {thing}", (f"other {thing}",), (f"near {thing}", f"beside {thing}"))
    for thing in ("printer", "router")
]


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(mining_bench, "load_embed_model", lambda name: WordEmbedding())


@pytest.fixture(scope="module")
def planted():
    return load_planted(SHIPPED)


@pytest.fixture(scope="module")
def found(planted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining_bench, "load_embed_model", lambda name: WordEmbedding())
        return bench_mining(planted, RULES, teacher=gold_teacher(planted, "gold:0.05"), progress=False)


# the shipped questions


def test_the_adaptive_margin_removes_nine_in_ten_hidden_positives(found):
    assert found["rules"]["verdict"]["removed"] >= 90.0


def test_the_adaptive_margin_keeps_seven_in_ten_hard_negatives(found):
    assert found["rules"]["verdict"]["kept"] >= 70.0


def test_naive_mining_removes_no_hidden_positive(found):
    assert found["rules"]["topk"] == {"removed": 0.0, "kept": 100.0, "found": found["rules"]["adaptive"]["found"]}


def test_nearly_all_that_is_planted_is_searched_out(found):
    assert found["questions"] == 90 and found["passages"] == 540
    assert found["rules"]["adaptive"]["found"] >= 90.0


def test_no_text_is_planted_twice(planted):
    texts = [text for row in planted for text in (row.positive, *row.paraphrases, *row.hard_negatives)]
    assert len(set(texts)) == len(texts) == 540 and len({row.query for row in planted}) == 90


# the gold teacher


def shares(name, planted):
    judge = gold_teacher(planted, name)
    right = [score > 0.5 for row in planted for score in judge(row.query, [*row.paraphrases])]
    wrong = [score > 0.5 for row in planted for score in judge(row.query, [*row.hard_negatives])]
    return sum(right) / len(right), sum(wrong) / len(wrong)


def test_the_gold_teacher_knows_the_answers(planted):
    assert shares("gold", planted) == shares("gold:0", planted) == (1.0, 0.0)
    assert shares("gold:1", planted) == (0.0, 1.0)


def test_the_gold_teacher_is_wrong_in_so_many_cases(planted):
    right, wrong = shares("gold:0.2", planted)
    assert 0.7 < right < 0.9 and 0.1 < wrong < 0.3


def test_the_gold_teacher_never_mistakes_the_positive_itself():
    judge = gold_teacher(SMALL, "gold:1")
    assert judge(SMALL[0].query, [SMALL[0].positive])[0] > 0.9


def test_the_gold_teacher_says_the_same_again():
    passages = [SMALL[0].positive, *SMALL[0].hard_negatives]
    assert gold_teacher(SMALL, "gold:0.5")("query printer", passages) == gold_teacher(SMALL, "gold:0.5")(
        "query printer", passages
    )


@pytest.mark.parametrize("name", ["gold:x", "gold:-0.1", "gold:1.1", "gold:nan"])
def test_a_share_out_of_range_is_named(name):
    with pytest.raises(ConfigurationError, match=f"expected gold:SHARE with a share from 0 to 1, found '{name}'"):
        gold_teacher(SMALL, name)


# counted by hand


def scores(query, passages):
    """The other wording of printers is missed; one hard negative of routers is thought an answer."""
    high = {"answer printer", "answer router", "other router", "near router"}
    return [0.9 if passage in high else 0.1 for passage in passages]


def test_shares_are_of_what_was_among_the_candidates():
    rules = {"naive": NAIVE, "margin": MarginRule(relative_margin=0.05)}
    found = bench_mining(SMALL, rules, teacher=scores, progress=False)
    assert found["rules"] == {
        "naive": {"removed": 0.0, "kept": 100.0, "found": 100.0},
        "margin": {"removed": 50.0, "kept": 75.0, "found": 100.0},
    }


def test_no_questions_are_an_error():
    with pytest.raises(ConfigurationError, match="planted: expected questions, found none"):
        bench_mining([], RULES)


# bench mining


def run(*arguments):
    return CliRunner().invoke(app, ["bench", "mining", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_writes_the_record_and_prints_it(tmp_path):
    planted = lines(tmp_path / "planted.jsonl", *(row.__dict__ for row in SMALL))
    output = tmp_path / "new" / "record.json"
    result = run("--planted", planted, "--output", output, "--teacher", "gold:0")
    assert result.exit_code == 0, result.output
    record = json.loads(output.read_text())
    assert list(record["rules"]) == list(RULES) and record["teacher"] == "gold:0" and record["questions"] == 2
    assert record["rules"]["topk-abs"] == {"removed": 100.0, "kept": 100.0, "found": 100.0}
    assert "2 questions, teacher gold:0; in percent" in result.output and "topk-percpos" in result.output


def test_a_malformed_line_is_one_line(tmp_path):
    planted = lines(tmp_path / "planted.jsonl", {"query": "q", "positive": "p", "paraphrases": []})
    result = run("--planted", planted, "--output", tmp_path / "record.json")
    assert result.exit_code == 2 and "planted.jsonl, line 1: missing hard_negatives" in result.stderr
