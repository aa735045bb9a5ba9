"""``llama-index-instruct mine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_instruct.cli.bench_incontext import TEACHER_HELP, mining_teacher
from llama_index_instruct.cli.options import (
    EMBED_HELP,
    LLM_BASE_HELP,
    LLM_HELP,
    console,
    errors_as_messages,
    openai_like,
)


def mine(
    pairs: Annotated[list[Path], typer.Option(help="JSONL of query and positive; repeat for several.")],
    output: Annotated[Path, typer.Option(help="JSONL to write: query, positive, negatives, scores.")],
    passages: Annotated[
        list[Path] | None, typer.Option(help="JSONL with the texts to search in 'text'; default: the positives.")
    ] = None,
    embed_model: Annotated[str, typer.Option(help=EMBED_HELP)] = "minilm",
    teacher: Annotated[str, typer.Option(help=TEACHER_HELP)] = "similarity",
    llm: Annotated[str | None, typer.Option(help="Judge with an LLM instead. " + LLM_HELP)] = None,
    llm_base: Annotated[str | None, typer.Option(help=LLM_BASE_HELP)] = None,
    logits: Annotated[bool, typer.Option(help="The teacher gives logits.")] = False,
    rule: Annotated[
        str | None,
        typer.Option(
            help="'adaptive' for searches, 'verdict' for teachers that judge (the defaults), 'topk', 'topk-shifted', "
            "'topk-abs', 'topk-marginpos' or 'topk-percpos'."
        ),
    ] = None,
    negatives: Annotated[int, typer.Option(help="Per pair.")] = 4,
    sample_from: Annotated[int, typer.Option(help="Drawn from so many of the best survivors.")] = 10,
    lexical: Annotated[int, typer.Option(help="Candidates from BM25.")] = 100,
    dense: Annotated[int, typer.Option(help="Candidates from the embedding model.")] = 100,
    checkpoint: Annotated[Path | None, typer.Option(help="File of scores; a stopped run goes on from it.")] = None,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
) -> None:
    """Hard negatives that are no hidden positives, with the teacher's soft scores."""
    from llama_index_instruct.errors import ConfigurationError
    from llama_index_instruct.evaluation.datasets import read_jsonl
    from llama_index_instruct.incontext.choosing import MiningSettings
    from llama_index_instruct.incontext.mined import read_mined, write_mined
    from llama_index_instruct.incontext.mining import HardNegativeMiner
    from llama_index_instruct.models import load_embed_model

    with errors_as_messages():
        if output.is_dir():
            raise ConfigurationError(f"{output}: expected a file to write, found a folder")
        judge = openai_like(llm, llm_base)
        miner = HardNegativeMiner(
            [(row.query, row.positive) for path in pairs for row in read_mined(path)],
            [str(row["text"]) for path in passages or [] for row in read_jsonl(path, ("text",))],
            embed_model=load_embed_model(embed_model),
            teacher=mining_teacher(teacher) if judge is None else judge,
            rule=rule,
            settings=MiningSettings(
                lexical=lexical,
                dense=dense,
                num_negatives=negatives,
                sample_from=sample_from,
                logits=logits,
                seed=seed,
            ),
            checkpoint=checkpoint,
        )
        count = write_mined(output, miner)
        report = miner.report
        console.print(
            f"{report.queries} queries, {report.candidates} candidates, {report.kept} may be negatives; "
            f"{count} rows, {report.dropped} pairs dropped"
        )
        for reason, removed in report.removed.items():
            console.print(f"removed by {reason}: {removed}")
            for shown in report.shown:
                if shown.reason == reason:
                    console.print(
                        f"  {shown.score:.2f} against {shown.positive_score:.2f}: {shown.query[:60]} | {shown.candidate[:80]}",
                        markup=False,
                    )
        console.print(f"written: {output}", markup=False, soft_wrap=True)
