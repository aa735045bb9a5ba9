"""``llama-index-instruct train ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_instruct.cli.options import console, errors_as_messages

train_app = typer.Typer(help="Train models of your own.", no_args_is_help=True)


@train_app.command("inbedder")
def train_inbedder_command(
    output: Annotated[Path, typer.Option(help="Folder of the result; a stopped run in it is resumed.")],
    triples: Annotated[
        list[Path] | None, typer.Option(help="JSONL of paragraph, question, answer; repeat for several.")
    ] = None,
    domains: Annotated[
        list[Path] | None, typer.Option(help="JSONL of domains: texts labelled on several facets; repeat for several.")
    ] = None,
    base: Annotated[str, typer.Option(help="Model to start from: 'minilm', a folder or a Hub name.")] = "minilm",
    kind: Annotated[str | None, typer.Option(help="'causal' or 'masked'; default: what the base is.")] = None,
    encoder: Annotated[
        str, typer.Option(help="Sentence encoder whose embeddings of the answers are the targets.")
    ] = "minilm",
    groups: Annotated[int, typer.Option(help="Groups of 32 triples drawn from every domain.")] = 40,
    gist_groups: Annotated[
        int,
        typer.Option(
            help="Groups of up to 32 texts, of every domain in one language, that are asked what they are about."
        ),
    ] = 0,
    limit: Annotated[int | None, typer.Option(help="Most triples taken from --triples, whole paragraphs.")] = None,
    longest: Annotated[int | None, typer.Option(help="Most words of a paragraph taken from --triples.")] = None,
    licences: Annotated[Path | None, typer.Option(help="Markdown on the data's sources, for the model card.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Triples per step.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = 2e-4,
    max_length: Annotated[int, typer.Option(help="Longest prompt, in tokens.")] = 256,
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = True,
    seed: Annotated[int, typer.Option(help="Of data, batches and new weights.")] = 0,
) -> None:
    """Question-answer triples, or texts under several facets, to an InBedder checkpoint."""
    from llama_index_instruct.errors import ConfigurationError
    from llama_index_instruct.files import read_text
    from llama_index_instruct.inbedder.facet_texts import compose_triples, read_domains
    from llama_index_instruct.inbedder.gist import gist_triples
    from llama_index_instruct.inbedder.training import train_inbedder
    from llama_index_instruct.inbedder.training_settings import InBedderTrainingSettings
    from llama_index_instruct.inbedder.triples import drawn, read_triples

    with errors_as_messages():
        if kind not in (None, "causal", "masked"):
            raise ConfigurationError(f"kind: expected 'causal' or 'masked', found {kind!r}")
        notes = read_text(licences) if licences else ""
        data = drawn(read_triples(triples or []), limit=limit, longest=longest, seed=seed)
        for position, path in enumerate(domains or []):  # a file given twice counts twice, in other compositions
            read = read_domains(path)
            data += compose_triples(read, groups, seed=seed + position)
            data += gist_triples(read, gist_groups, seed=seed + position)
        settings = InBedderTrainingSettings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_length=max_length,
            bf16=bf16,
            seed=seed,
        )
        folder = train_inbedder(
            data,
            base,
            output,
            kind=kind,  # type: ignore[arg-type]
            encoder=encoder,
            settings=settings,
            data_notes=notes,
        )
        console.print(f"written: {folder}", markup=False, soft_wrap=True)


@train_app.command("average")
def average_command(
    models: Annotated[list[str], typer.Argument(help="Folders or Hub names of checkpoints of one architecture.")],
    output: Annotated[Path, typer.Option(help="Folder of the result.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Of each model, in their order, repeat; default: all alike.")
    ] = None,
    eight_bit: Annotated[bool, typer.Option(help="Save eight-bit weights, a quarter of the size.")] = False,
) -> None:
    """The mean of the weights of several InBedder checkpoints."""
    from llama_index_instruct.inbedder.averaging import average_models

    with errors_as_messages():
        folder = average_models(models, output, weights=weight or None, eight_bit=eight_bit)
        console.print(f"written: {folder}", markup=False, soft_wrap=True)


@train_app.command("incontext")
def train_incontext_command(
    rows: Annotated[
        list[Path],
        typer.Option(help="JSONL of query, positive, negatives, scores, as from 'mine'; one set each, repeat."),
    ],
    base: Annotated[str, typer.Option(help="Decoder to start from: a folder or a Hub name.")],
    output: Annotated[Path, typer.Option(help="Folder of the result; a stopped run in it is resumed.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Instruction of each set, in the order of --rows; one for all, or none.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="'retrieval', 'similarity', 'classification' or 'clustering', of each set or of all."),
    ] = None,
    dev: Annotated[list[Path] | None, typer.Option(help="BEIR-style folder to evaluate on during training.")] = None,
    licences: Annotated[Path | None, typer.Option(help="Markdown on the data's sources, for the model card.")] = None,
    template: Annotated[str, typer.Option(help="'lg-anna', 'bge-en-icl', 'plain' or 'bare'.")] = "lg-anna",
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Queries per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = 1e-4,
    soft_weight: Annotated[float, typer.Option(help="Weight of the soft labels.")] = 1.0,
    most_examples: Annotated[int, typer.Option(help="A query is shown 0 to so many examples.")] = 5,
    lora_rank: Annotated[int, typer.Option(help="Of the adapters; 0 trains all weights.")] = 32,
    merge: Annotated[bool, typer.Option(help="Save the whole model, not the adapters alone.")] = True,
    eval_steps: Annotated[int | None, typer.Option(help="Steps between evaluations; default: each epoch.")] = None,
    seed: Annotated[int, typer.Option(help="Of batches, examples and new weights.")] = 0,
) -> None:
    """Mined rows to an in-context embedding checkpoint: InfoNCE, soft labels, examples in the prompt."""
    from llama_index_instruct.evaluation.datasets import load_beir
    from llama_index_instruct.evaluation.during_training import retrieval_evaluator
    from llama_index_instruct.files import read_text
    from llama_index_instruct.incontext.groups import TrainingSet
    from llama_index_instruct.incontext.mined import read_mined
    from llama_index_instruct.incontext.training import train_incontext
    from llama_index_instruct.incontext.training_settings import InContextTrainingSettings

    with errors_as_messages():
        tasks, kinds = _each(task, len(rows), "task", ""), _each(kind, len(rows), "kind", "retrieval")
        sets = [
            TrainingSet(path.name.split(".")[0], read_mined(path), asked, of_kind)  # type: ignore[arg-type]
            for path, asked, of_kind in zip(rows, tasks, kinds, strict=True)
        ]
        settings = InContextTrainingSettings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            soft_weight=soft_weight,
            most_examples=most_examples,
            template=template,  # type: ignore[arg-type]
            lora_rank=lora_rank,
            merge=merge,
            eval_steps=eval_steps,
            seed=seed,
        )
        folder = train_incontext(
            sets,
            base,
            output,
            settings=settings,
            evaluators=[retrieval_evaluator(load_beir(path), template, tasks[0]) for path in dev or []],
            data_notes=read_text(licences) if licences else "",
        )
        console.print(f"written: {folder}", markup=False, soft_wrap=True)


def _each(values: list[str] | None, count: int, name: str, default: str) -> list[str]:
    from llama_index_instruct.errors import ConfigurationError

    found = values or [default]
    if len(found) not in (1, count):
        raise ConfigurationError(f"{name}: expected one for all or one for each of {count} sets, found {len(found)}")
    return found * count if len(found) == 1 else found
