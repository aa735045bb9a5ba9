"""`bench all` on the shipped tickets: what is there is measured, what is absent is said, every number has its origin."""

import json
from datetime import date

import numpy as np
import pytest
from fakes import WordEmbedding
from ticket_data import QUESTIONS, SHIPPED, write_tickets
from typer.testing import CliRunner

from llama_index_instruct.cli import app
from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation import timing
from llama_index_instruct.evaluation.combined_bench import CombinedBench, bench_combined
from llama_index_instruct.evaluation.encoding import encode
from llama_index_instruct.evaluation.facets import load_facets
from llama_index_instruct.evaluation.full_report import ReportSettings, write_full_report
from llama_index_instruct.evaluation.sections import SECTIONS
from llama_index_instruct.evaluation.timing import ForeignLoad, machine_line, times_of

ONLY = ("rag", "refinement", "gstransform", "mining")
COMMAND = "llama-index-instruct bench all --data tickets --quick"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    settings = ReportSettings(quick=True, only=ONLY, seed=7, command=COMMAND, today=date(2026, 1, 2))
    found = write_full_report(write_tickets(root / "data"), root / "out", WordEmbedding(), settings, progress=False)
    return root / "out", found


def test_it_is_written_in_full(report):
    folder, found = report
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(found))
    pictures = {name for section in SECTIONS if section.name in ONLY for name in section.plots}
    assert pictures == {"quality-calls.png", "quality-milliseconds.png", "ranks-moved.png", "nmi-by-facet.png"}
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"![{name}]({name})" in (folder / "report.md").read_text()


@pytest.mark.parametrize("name", ONLY)
def test_every_section_says_where_its_numbers_come_from(report, name):
    folder, found = report
    section = next(section for section in SECTIONS if section.name == name)
    written = (folder / "report.md").read_text().split(f"## {section.title}\n")[1].split("\n## ")[0]
    assert section.words in written
    assert f"n: {section.counts(found['sections'][name]['record'])}. Seed 7." in written
    assert machine_line(date(2026, 1, 2)) in written
    assert f"{COMMAND} --only {name}" in written


def test_its_tables_are_the_records(report):
    folder, found = report
    peers = found["sections"]["rag"]["record"]["sets"]["tickets"]["peers"]
    table = (folder / "report.md").read_text().split("**tickets: 6 queries")[1].split("\n\n")[1]
    rows = {cells[1]: cells[2] for line in table.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 3}
    assert {name: f"{row['map@100']:.3f}" for name, row in peers.items()}.items() <= rows.items()


def test_what_is_absent_is_left_out_and_said(tmp_path):
    data = write_tickets(tmp_path / "data", parts=("facets",))
    settings = ReportSettings(quick=True, only=("refinement", "gstransform-wrong"))
    found = write_full_report(data, tmp_path, WordEmbedding(), settings, progress=False)
    assert list(found["sections"]) == ["gstransform-wrong"]
    assert found["left_out"] == {"refinement": "no retrieval/*/ in the data"}
    written = (tmp_path / "report.md").read_text()
    assert "Left out: Refinement, whole rankings, a perfect judge (no retrieval/*/ in the data)." in written
    assert "- retrieval: none found" in written


def test_planted_questions_come_from_the_data_or_else_from_the_checkout(report, tmp_path):
    _, found = report
    shipped = found["sections"]["mining"]["record"]["teachers"]
    assert list(shipped) == ["gold:0.05", "similarity", "hybrid"]
    assert all(one["questions"] == 90 and one["rules"]["topk"]["removed"] == 0.0 for one in shipped.values())
    judged = shipped["gold:0.05"]["rules"]["verdict"]
    assert judged["removed"] > 85 and judged["kept"] > 85
    data = write_tickets(tmp_path / "data", parts=("facets",))
    (data / "planted").mkdir()
    first = (SHIPPED / "planted.jsonl").read_text().splitlines()[:2]
    (data / "planted" / "own.jsonl").write_text("\n".join(first))
    own = write_full_report(data, tmp_path, WordEmbedding(), ReportSettings(only=("mining",)), progress=False)
    assert own["data"]["planted"] == "2 questions"
    assert own["sections"]["mining"]["record"]["teachers"]["hybrid"]["questions"] == 2


def test_no_data_at_all_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="expected retrieval"):
        write_full_report(tmp_path, tmp_path / "out", WordEmbedding(), ReportSettings(), progress=False)


def test_an_unknown_section_is_named():
    with pytest.raises(ConfigurationError, match=r"rag.*found magic"):
        ReportSettings(only=("magic",))


def test_names_of_sections_and_pictures_are_used_once():
    names = [section.name for section in SECTIONS]
    pictures = [name for section in SECTIONS for name in section.plots]
    assert len(set(names)) == len(names) and len(set(pictures)) == len(pictures)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_index_instruct.models.load_embed_model", lambda name: WordEmbedding())
    data = write_tickets(tmp_path / "data")
    arguments = ["bench", "all", "--data", str(data), "--output", str(tmp_path / "out"), "--quick", "--seed", "5"]
    result = CliRunner().invoke(app, [*arguments, "--only", "refinement-wrong"])
    assert result.exit_code == 0, result.output
    assert f"written: {tmp_path / 'out' / 'report.md'}" in result.output
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (
        record["command"]
        == f"llama-index-instruct bench all --data {data} --output {tmp_path / 'out'} --quick --seed 5"
    )
    assert record["sections"]["refinement-wrong"]["record"]["settings"]["flip"] == 0.1
    assert CliRunner().invoke(app, [*arguments, "--only", "magic"]).exit_code == 2


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    corpus = load_facets(write_tickets(tmp_path_factory.mktemp("corpus"), parts=("facets",)) / "facets" / "tickets")
    settings = CombinedBench(sample=60, collection=60, queries=6, clusters=5)
    return bench_combined([corpus], WordEmbedding(), settings, progress=False)


def test_two_corpora_of_one_name_are_refused(tmp_path):
    corpus = load_facets(write_tickets(tmp_path, parts=("facets",)) / "facets" / "tickets")
    with pytest.raises(ConfigurationError, match="different names"):
        bench_combined([corpus, corpus], WordEmbedding(), CombinedBench(), progress=False)


def test_the_rooms_alone_and_together_are_scored_side_by_side(combined):
    assert set(combined["facets"]) == {f"tickets/{facet}" for facet in QUESTIONS}
    means, facets = combined["means"], combined["facets"].values()
    judging = {name for name, row in means.items() if row["calls"] > 0}
    assert judging == {name for name in means if "refine" in name}
    assert {"plain", "InBedder", "refinement"} <= set(means)
    for taught_by in ("gold labels", "InBedder's clusters"):
        assert {f"GSTransform by {taught_by}", f"GSTransform by {taught_by}, inside refinement"} <= set(means)
    for name, row in means.items():
        assert 0 <= row["p@10"] <= 100
        assert row["p@100"] == pytest.approx(np.mean([facet["ways"][name]["p@100"] for facet in facets]), abs=0.01)
    assert means["refinement"]["p@10"] > means["plain"]["p@10"]


def test_two_instructions_do_not_share_cached_vectors(tmp_path):
    class Told(WordEmbedding):
        instruction: str = ""

        def _get_text_embedding(self, text):
            return self._vector(f"{self.instruction} {text}")

    def vectors(instruction):
        model = Told(instruction=instruction)
        return encode(model, ["one text"], queries=False, label="", cache=tmp_path, progress=False)

    assert not np.allclose(vectors("mood"), vectors("product"))


def test_a_ratio_is_to_the_base_of_the_same_round():
    def work(times):
        return lambda: [sum(range(20_000)) for _ in range(times)]

    found = times_of({"once": work(10), "thrice": work(30)}, base="once", rounds=3)
    assert found["once"]["ratio"] == found["once"]["lowest"] == found["once"]["highest"] == 1.0
    assert 1.5 < found["thrice"]["ratio"] < 6.0


def test_own_work_is_no_foreign_load(monkeypatch):
    busy, own = iter([100.0, 103.0]), iter([1.0, 2.0])
    wall = iter([10.0, 14.0])
    monkeypatch.setattr(timing, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(timing.time, "process_time", lambda: next(own))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(wall))
    with ForeignLoad() as load:
        pass
    assert load.cpus == (3.0 - 1.0) / 4.0


def test_where_the_system_does_not_say_there_is_no_foreign_load(monkeypatch):
    monkeypatch.setattr(timing, "_STAT", SHIPPED / "no such file")
    with ForeignLoad() as load:
        pass
    assert load.cpus is None


def test_the_machine_line_has_everything():
    line = machine_line(date(2026, 1, 2))
    for word in ("cores", "Python 3.", "torch 2", "2026-01-02"):
        assert word in line
