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
    from llama_index_instruct.inbedder.training import InBedderTrainingSettings, train_inbedder
    from llama_index_instruct.inbedder.triples import drawn, read_triples

    with errors_as_messages():
        if kind not in (None, "causal", "masked"):
            raise ConfigurationError(f"kind: expected 'causal' or 'masked', found {kind!r}")
        notes = read_text(licences) if licences else ""
        data = drawn(read_triples(triples or []), limit=limit, longest=longest, seed=seed)
        for position, path in enumerate(domains or []):  # a file given twice counts twice, in other compositions
            data += compose_triples(read_domains(path), groups, seed=seed + position)
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
