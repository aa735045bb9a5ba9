"""``llama-index-instruct bench all``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from llama_index_instruct.cli.options import EMBED_HELP, console, errors_as_messages


def bench_all_command(
    data: Annotated[
        Path, typer.Option(help="Folder with retrieval/*/, facets/*/, triplets/*/*.jsonl.gz, planted/*.jsonl.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for report.md, report.json and the pictures.")],
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps encoded texts between runs.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A little of everything, to see that it works.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Section to run; repeat for several. Default: all.")] = None,
    embed_model: Annotated[str, typer.Option(help=EMBED_HELP)] = "minilm",
    cross_encoder: Annotated[str | None, typer.Option(help="Folder or Hub name of a reranking model.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
) -> None:
    """Every bench with its peers on the data there is, and one report of it all."""
    from llama_index_instruct.evaluation.full_report import ReportSettings, write_full_report
    from llama_index_instruct.models import load_embed_model

    command = ["llama-index-instruct", "bench", "all", "--data", str(data), "--output", str(output)]
    command += ["--quick"] if quick else []
    command += ["--embed-model", embed_model] if embed_model != "minilm" else []
    command += ["--cross-encoder", cross_encoder] if cross_encoder is not None else []
    command += ["--seed", str(seed)]
    with errors_as_messages():
        settings = ReportSettings(
            quick=quick, only=tuple(only or ()), seed=seed, cross_encoder=cross_encoder, command=shlex.join(command)
        )
        write_full_report(data, output, load_embed_model(embed_model), settings, cache=cache)
        console.print(f"written: {output / 'report.md'}", markup=False, soft_wrap=True)
