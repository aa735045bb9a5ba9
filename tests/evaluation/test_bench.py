import csv
import gzip
import json
import math

import numpy as np
import pytest
from fakes import ScriptedLLM, WordEmbedding
from typer.testing import CliRunner

from llama_index_instruct import RelevanceJudge
from llama_index_instruct.cli import app
from llama_index_instruct.errors import ConfigurationError, InstructError
from llama_index_instruct.evaluation.bench import RefinementBench, bench_refinement
from llama_index_instruct.evaluation.datasets import load_beir
from llama_index_instruct.evaluation.metrics import ranking_measures
from llama_index_instruct.evaluation.peers import PEERS, Ranked
from llama_index_instruct.evaluation.qdrant_check import check_against_qdrant
from llama_index_instruct.evaluation.speed import bench_solver_speed

THINGS = ("printer", "router", "laptop", "phone", "watch", "camera")
MOODS = ("furious", "grateful", "calm", "worried")


def write_set(folder, *, compressed=False, candidates=False, instruction=""):
    folder.mkdir()
    (folder / "qrels").mkdir()
    corpus, queries, qrels, pool = [], [], [], []
    for t, thing in enumerate(THINGS):
        for m, mood in enumerate(MOODS):
            for copy in range(5):
                id_ = f"d{t}{m}{copy}"
                text = f"the {thing} order came {mood} word{copy} {mood}ly said word{(t * m + copy) % 7}"
                corpus.append({"_id": id_, "title": thing, "text": text})
                if copy < 4:
                    pool += [(f"q{m}", id_), (f"q{(m + 1) % 4}", id_)]
                qrels.append((f"q{m}", id_, 1))
    for m, mood in enumerate(MOODS):
        queries.append({"_id": f"q{m}", "text": f"the printer order {mood}", "instruction": instruction})
    queries.append({"_id": "unjudged", "text": "nothing"})
    qrels.append(("q0", "not in the corpus", 1))
    qrels.append(("q1", "d000", 0))

    def write(name, rows):
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)

    write("corpus.jsonl", corpus)
    write("queries.jsonl", queries)
    with (folder / "qrels" / "test.tsv").open("w", newline="") as out:
        csv.writer(out, delimiter="\t").writerows([("query-id", "corpus-id", "score"), *qrels])
    if candidates:
        with (folder / "candidates.tsv").open("w", newline="") as out:
            csv.writer(out, delimiter="\t").writerows([("query-id", "doc-id"), *pool])
    return folder


@pytest.mark.parametrize("compressed", [False, True])
def test_beir_folders(tmp_path, compressed):
    data = load_beir(write_set(tmp_path / "shop", compressed=compressed, candidates=True, instruction="be angry"))
    assert data.name == "shop" and len(data.documents) == 120
    assert [query.id for query in data.queries] == ["q0", "q1", "q2", "q3"]
    assert data.queries[0].embedded_text == "be angry\nthe printer order furious"
    assert [len(rows) for rows in data.relevant] == [30, 30, 30, 30]
    # 24 listed of each of two moods, and what is relevant belongs to the pool in any case.
    assert [len(rows) for rows in data.pools] == [54, 54, 54, 54]
    assert data.documents[0].startswith("printer the printer")


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda f: (f / "corpus.jsonl").unlink(), "corpus.jsonl or corpus.jsonl.gz"),
        (lambda f: (f / "queries.jsonl").write_text('{"_id": "q0"}\n'), "line 1: missing text"),
        (lambda f: (f / "queries.jsonl").write_text("{broken\n"), "line 1: expected a JSON object"),
        (lambda f: (f / "queries.jsonl").write_text("[1]\n"), "line 1: expected a JSON object, found list"),
        (lambda f: (f / "qrels" / "test.tsv").write_text("q0\t0\td000\t1\n"), "line 1: expected a number as third"),
        (lambda f: (f / "qrels" / "test.tsv").write_text("q0\td000\n"), "line 1: expected 3 columns"),
        (lambda f: (f / "qrels" / "test.tsv").write_text("q0\tnone\t1\n"), "no query has a relevant document"),
    ],
)
def test_a_broken_set_is_named(tmp_path, breakage, words):
    folder = write_set(tmp_path / "shop")
    breakage(folder)
    with pytest.raises(ConfigurationError, match=words):
        load_beir(folder)


def test_measures_by_hand():
    rankings = [np.array([5, 1, 2, 3]), np.array([0, 1])]
    relevant = [np.array([1, 3]), np.array([0])]
    measures = ranking_measures(rankings, relevant)
    assert measures["map"] == pytest.approx([(1 / 2 + 2 / 4) / 2, 1.0])
    ideal = 1 + 1 / math.log2(3)
    assert measures["ndcg@10"] == pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 1.0])


@pytest.mark.parametrize("seed", range(3))
def test_cutting_below_the_last_relevant_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    ranking, relevant = rng.permutation(200), np.sort(rng.choice(200, 5, replace=False))
    places = np.flatnonzero(np.isin(ranking, relevant))
    expected = np.mean((np.arange(5) + 1) / (places + 1))
    assert ranking_measures([ranking], [relevant])["map"] == pytest.approx([expected])


def test_the_record(tmp_path):
    data = load_beir(write_set(tmp_path / "shop"))
    settings = RefinementBench(judged=12, qdrant_queries=4)
    record = bench_refinement([data], WordEmbedding(), settings, cache=tmp_path / "cache", progress=False)
    assert record["bench"] == "refinement" and record["settings"]["judge"] == "gold"
    shop = record["datasets"]["shop"]
    assert shop["queries"] == 4 and shop["documents"] == 120
    assert 0.0 <= shop["judge_error"]["low"] <= shop["judge_error"]["error"] <= shop["judge_error"]["high"] <= 0.45
    methods = shop["methods"]
    assert set(methods) == {*PEERS, "qdrant-feedback-best"}
    for name, row in methods.items():
        assert {"map", "ndcg@10", "judgements", "worse", "solve_ms"} <= set(row)
        assert row["judgements"] == (0 if name == "plain" else 12)
    assert methods["plain"]["worse"] == 0 and methods["plain"]["solve_ms"] is None
    assert methods["logistic"]["map"] > methods["kl-reference"]["map"] > methods["plain"]["map"]
    assert methods["qdrant-feedback-best"]["map"] >= methods["plain"]["map"]
    # plain, kl-reference, kl, rocchio, three of logistic and two of feedback, for each of four queries
    assert shop["rankings_checked_in_qdrant"] == 9 * 4
    json.dumps(record)
    again = bench_refinement([data], WordEmbedding(), settings, cache=tmp_path / "cache", progress=False)
    for name, row in again["datasets"]["shop"]["methods"].items():
        assert row["map"] == methods[name]["map"]


def test_flips_are_seeded_and_shared(tmp_path):
    data = load_beir(write_set(tmp_path / "shop", candidates=True))

    def run(**settings):
        chosen = RefinementBench(judged=10, methods=("rerank", "logistic"), qdrant_queries=0, **settings)
        return bench_refinement([data], WordEmbedding(), chosen, progress=False)["datasets"]["shop"]["methods"]

    gold, half, same = run(), run(flip=0.5, seed=1), run(flip=0.5, seed=1)
    assert half["rerank"]["map"] < gold["rerank"]["map"]
    assert {k: v["map"] for k, v in half.items()} == {k: v["map"] for k, v in same.items()}
    assert set(gold) == {"rerank", "logistic"}


def test_an_llm_judge_is_asked_with_the_instruction(tmp_path):
    data = load_beir(write_set(tmp_path / "shop", instruction="the writer is angry"))
    llm = ScriptedLLM(rule=lambda p: 0.9 if "furious" in p else 0.1)
    settings = RefinementBench(judge=RelevanceJudge(llm), judged=6, methods=("logistic",), qdrant_queries=0)
    record = bench_refinement([data], WordEmbedding(), settings, progress=False)
    assert record["settings"]["judge"] == "scripted" and len(llm.prompts) == 4 * 6
    assert "the writer is angry" in llm.prompts[0]


def test_an_llm_judge_is_asked_once_per_passage_and_may_fail(tmp_path):
    data = load_beir(write_set(tmp_path / "shop"))
    llm = ScriptedLLM(rule=lambda p: "hm" if "word2" in p else 0.9 if "furious" in p else 0.1)
    settings = RefinementBench(judge=RelevanceJudge(llm), judged=6, qdrant_queries=2)
    record = bench_refinement([data], WordEmbedding(), settings, progress=False)
    assert all(0 < row["map"] <= 1 for row in record["datasets"]["shop"]["methods"].values())
    assert len(llm.prompts) <= 4 * 24  # seven methods and a grid of ten would ask hundreds of times
    with pytest.raises(ConfigurationError, match="flip"):
        RefinementBench(judge=RelevanceJudge(llm), flip=0.1)


def test_two_folders_of_one_name_are_refused(tmp_path):
    data = load_beir(write_set(tmp_path / "shop"))
    with pytest.raises(ConfigurationError, match="different names"):
        bench_refinement([data, data], WordEmbedding(), RefinementBench(), progress=False)


def test_a_ranking_that_qdrant_does_not_share_is_an_error():
    documents = np.eye(4, dtype=np.float32)
    wrong = Ranked(np.array([3, 2, 1, 0]), 0, math.nan, np.array([0.9, 0.3, 0.2, 0.1]))
    with pytest.raises(InstructError, match="rank differently"):
        check_against_qdrant(documents, [np.arange(4)], {"x": [wrong]}, sample=1, label="set", progress=False)


def test_speed_has_every_ratio():
    record = bench_solver_speed(dimensions=(16,), rounds=1, solves=2)
    assert set(record["16"]) == {"kl-reference", "kl", "logistic", "logistic-vectors", "preparation"}
    assert record["16"]["kl-reference"]["times_faster"] == 1.0


@pytest.mark.parametrize(
    "settings", [{"methods": ("magic",)}, {"flip": 1.5}, {"judged": 0}, {"rounds": 0}, {"judge": "silver"}]
)
def test_wrong_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        RefinementBench(**settings)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_index_instruct.models.load_embed_model", lambda name: WordEmbedding())
    folder, output = write_set(tmp_path / "shop"), tmp_path / "out" / "record.json"
    arguments = ["bench", "refinement", "--data", str(folder), "--judged", "10", "--output", str(output)]
    result = CliRunner().invoke(app, [*arguments, "--methods", "plain,kl-reference,logistic", "--no-speed"])
    assert result.exit_code == 0, result.output
    record = json.loads(output.read_text())
    assert list(record["datasets"]["shop"]["methods"]) == ["plain", "kl-reference", "logistic"]
    assert "kl-reference" in result.output
    wrong = CliRunner().invoke(app, [*arguments, "--methods", "magic"])
    assert wrong.exit_code == 2


def test_latency_is_that_of_two_calls():
    from llama_index_instruct.evaluation.latency import bench_latency

    record = bench_latency(delay=0.1, documents=60, dimension=16, repeats=2)
    assert record["sync_and_async_agree"]
    assert record["ms"]["refined"] >= 200 and record["ms"]["refined async"] >= 200
    # One after the other the judgements would take two seconds.
    assert record["ms"]["refined"] < 1500 and record["ms"]["refined async"] < 1500


def test_the_llm_of_the_command_line_speaks_to_an_endpoint(fake_openai, monkeypatch):
    from llama_index_instruct.cli.options import openai_like

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    llm = openai_like("m", fake_openai.url)
    fake_openai.rule = lambda passage: 0.8
    judge = RelevanceJudge(llm, workers=1)
    np.testing.assert_allclose(judge.judge("q", ["one", "two"]), [0.8, 0.8])
    llm._get_client().close()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        openai_like("m", None)
