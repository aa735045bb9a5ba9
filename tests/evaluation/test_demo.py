import io

import pytest
from rich.console import Console

from llama_index_instruct.evaluation.demo import run_demo


@pytest.mark.timeout(120)
def test_the_demo_tells_the_truth():
    """The whole of `make demo` on the real model and the shipped corpus."""
    console = Console(file=io.StringIO(), width=160)
    summary = run_demo(console)
    said = console.file.getvalue()
    assert "No LLM is configured: the judge answers from the corpus's own labels" in said
    assert f"{summary['map_plain']:.3f} plain, {summary['map_refined']:.3f} refined" in " ".join(said.split())
    assert summary["judgements"] == 20
    assert summary["map_refined"] > 1.5 * summary["map_plain"]
