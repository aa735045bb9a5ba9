import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.demo import ticket_index
from llama_index_instruct.evaluation.demo_inbedder import NAMES, QUESTIONS, run_inbedder_demo
from llama_index_instruct.inbedder.embedding import InBedderEmbedding

DATA = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.mark.timeout(120)
def test_the_third_part_of_the_demo():
    """On the shipped model and all the shipped tickets."""
    tickets, _ = load_tickets(DATA)
    index = ticket_index(tickets)
    console = Console(file=io.StringIO(), width=200)
    scores = run_inbedder_demo(console, index, tickets)
    index.vector_store.client.close()
    said = console.file.getvalue()
    assert set(scores) == {f"{facet}_{way}" for facet in ("product", "feeling") for way in NAMES}
    assert all(0 <= score <= 100 for score in scores.values())
    assert scores["feeling_inbedder"] > scores["feeling_stored"]
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    model = InBedderEmbedding()
    first = " ".join(tickets[0].text.split())[:30]
    for facet, question in QUESTIONS.items():
        answer = model.with_instruction(question).answer([tickets[0].text])[0]
        assert f'"{question}": nearest to the first message' in said
        assert any(line[0] == answer and line[1].startswith(first) for line in lines if len(line) == 2)
        for way, name in NAMES.items():
            assert [question, name, f"{scores[f'{facet}_{way}']:.1f}"] in [line[:3] for line in lines]
    answered = [line for line in lines if len(line) == 2 and line[0]]
    assert len(answered) == 2 * 4 and all(message for _, message in answered)
