"""``llama-index-instruct demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_instruct.cli.options import (
    EMBED_HELP,
    LLM_BASE_HELP,
    LLM_HELP,
    console,
    errors_as_messages,
    openai_like,
)


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Folder with tickets.jsonl and queries.jsonl; default: examples/data.")
    ] = None,
    llm: Annotated[str | None, typer.Option(help=LLM_HELP)] = None,
    llm_base: Annotated[str | None, typer.Option(help=LLM_BASE_HELP)] = None,
    embed_model: Annotated[str, typer.Option(help=EMBED_HELP)] = "minilm",
    judged: Annotated[int, typer.Option(help="Judgements per query.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds they are spread over.")] = 2,
    picture: Annotated[Path, typer.Option(help="Where the scatter plots go.")] = Path("demo-gstransform.png"),
) -> None:
    """Index the shipped tickets, search them plainly, refined and under three instructions, and show what changed."""
    from llama_index_instruct.evaluation.demo import run_demo

    with errors_as_messages():
        run_demo(
            console,
            folder=data,
            llm=openai_like(llm, llm_base),
            embed_model_name=embed_model,
            judged=judged,
            rounds=rounds,
            picture=picture,
        )
