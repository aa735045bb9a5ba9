import io
from pathlib import Path

import pytest
from rich.console import Console

from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.demo import run_demo
from llama_index_instruct.evaluation.demo_inbedder import NAMES, QUESTIONS
from llama_index_instruct.inbedder.embedding import InBedderEmbedding

DATA = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture(scope="module")
def demo(tmp_path_factory, texts_encoded_once):
    """The whole of `make demo` on the real models and the shipped corpus: what it printed, and what it found."""
    console = Console(file=io.StringIO(), width=200)
    summary = run_demo(console, picture=tmp_path_factory.mktemp("demo") / "maps.png")
    return console.file.getvalue(), summary


@pytest.mark.timeout(240)
def test_the_demo_tells_the_truth(demo):
    said, summary = demo
    assert "No LLM is configured: the judge answers from the corpus's own labels" in said
    assert f"{summary['map_plain']:.3f} plain, {summary['map_refined']:.3f} refined" in " ".join(said.split())
    assert summary["judgements"] == 20
    assert summary["map_refined"] > 1.5 * summary["map_plain"]


def test_inbedders_part_shows_its_answers_and_follows_the_question(demo):
    said, scores = demo
    tickets, _ = load_tickets(DATA)
    assert scores["feeling_inbedder"] > 10 + scores["feeling_stored"]
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    model = InBedderEmbedding()
    first = " ".join(tickets[0].text.split())[:30]
    for facet, question in QUESTIONS.items():
        answer = model.with_instruction(question).answer([tickets[0].text])[0]
        assert any(line[0] == answer and line[1].startswith(first) for line in lines if len(line) == 2)
        for way, name in NAMES.items():
            assert [question, name, f"{scores[f'{facet}_{way}']:.1f}"] in [line[:3] for line in lines]
