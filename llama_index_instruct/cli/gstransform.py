"""``llama-index-instruct fit`` and ``transform``: GSTransform without writing Python."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_index_instruct.cli.options import (
    LLM_BASE_HELP,
    LLM_HELP,
    PATH_HELP,
    URL_HELP,
    console,
    errors_as_messages,
    openai_like,
    qdrant_client,
)
from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms.llm import LLM

    from llama_index_instruct.gstransform.labelling import LabellingEstimate
    from llama_index_instruct.gstransform.sources import LabelSource
    from llama_index_instruct.teacher.usage import Budget


def fit(
    collection: Annotated[str, typer.Option(help="Qdrant collection to learn from.")],
    instruction: Annotated[str, typer.Option(help="Question the labels answer, e.g. 'How does the writer feel?'")],
    output: Annotated[Path, typer.Option(help="Folder for the transform.")],
    url: Annotated[str | None, typer.Option(help=URL_HELP)] = None,
    path: Annotated[Path | None, typer.Option(help=PATH_HELP)] = None,
    llm: Annotated[str | None, typer.Option(help=LLM_HELP)] = None,
    llm_base: Annotated[str | None, typer.Option(help=LLM_BASE_HELP)] = None,
    label_field: Annotated[str | None, typer.Option(help="Metadata field with the labels, in the LLM's place.")] = None,
    label_model: Annotated[
        str | None, typer.Option(help="Embedding model whose clusters are the labels, in the LLM's place.")
    ] = None,
    embed_model: Annotated[
        str | None,
        typer.Option(help="Model that made the stored vectors: 'minilm', a folder or a Hub name. Needed with --llm."),
    ] = None,
    vector_name: Annotated[str, typer.Option(help="Dense vector; default: the unnamed or the only one.")] = "",
    text_key: Annotated[
        str, typer.Option(help="Payload field with the text, if LlamaIndex did not write it.")
    ] = "text",
    sample: Annotated[int, typer.Option(help="Texts to be labelled.")] = 3000,
    unlabelled: Annotated[int, typer.Option(help="Further vectors to learn from.")] = 6000,
    clusters: Annotated[int, typer.Option(help="Groups of summaries.")] = 50,
    method: Annotated[str, typer.Option(help="ridge, fisher or contrastive.")] = "ridge",
    output_dimension: Annotated[int | None, typer.Option(help="Largest size of the transformed vectors.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keeps every answer of the LLM; default: beside --output.")
    ] = None,
    max_calls: Annotated[int | None, typer.Option(help="Budget of LLM calls.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Budget of tokens.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Budget of money; needs both prices.")] = None,
    prompt_price: Annotated[float | None, typer.Option(help="Price of a million tokens read.")] = None,
    completion_price: Annotated[float | None, typer.Option(help="Price of a million tokens written.")] = None,
    workers: Annotated[int, typer.Option(help="LLM calls at a time.")] = 20,
    seed: Annotated[int, typer.Option(help="Of sample and fit.")] = 0,
) -> None:
    """Fit a transform for one instruction on a collection that is already there."""
    from llama_index_instruct.gstransform.pipeline import fit_gstransform
    from llama_index_instruct.gstransform.sampling import QdrantSource
    from llama_index_instruct.models import load_embed_model

    with errors_as_messages(), qdrant_client(url, path) as client:
        if method not in ("ridge", "fisher", "contrastive"):
            raise ConfigurationError(f"--method: expected ridge, fisher or contrastive, found {method!r}")
        model = openai_like(llm, llm_base)
        embedder = None if embed_model is None else load_embed_model(embed_model)
        labels = _labels(
            model,
            label_field,
            label_model,
            embedder,
            budget=_budget(max_calls, max_tokens, max_cost, prompt_price, completion_price),
            checkpoint=checkpoint or output.with_name(f"{output.name}.answers"),
            clusters=clusters,
            workers=workers,
        )
        fitted = fit_gstransform(
            QdrantSource(client, collection, vector_name, text_key),
            instruction=instruction,
            labels=labels,
            embed_model=embedder,
            sample=sample,
            unlabelled=unlabelled,
            method=method,  # type: ignore[arg-type]
            output_dimension=output_dimension,
            seed=seed,
            show_progress=True,
        )
        fitted.save_pretrained(output)
        _tell(fitted.info.labelling["summary"])
        for name, count in sorted(fitted.info.labels.items(), key=lambda item: -item[1])[:12]:
            _tell(f"  {count:6.0f}  {name}")
        if fitted.explained is not None:
            console.print(
                f"The vectors tell {fitted.explained:.0%} of the labels (each text foretold from the others)."
            )
        _tell(f"written: {output} ({fitted.input_dimension} -> {fitted.output_dimension} numbers)")


def transform(
    source: Annotated[str, typer.Option(help="Qdrant collection to read.")],
    target: Annotated[str, typer.Option(help="New collection; or the source, with --target-vector.")],
    transform: Annotated[Path, typer.Option(help="Folder of a transform.")],
    url: Annotated[str | None, typer.Option(help=URL_HELP)] = None,
    path: Annotated[Path | None, typer.Option(help=PATH_HELP)] = None,
    vector_name: Annotated[str, typer.Option(help="Vector to transform; default: the unnamed or the only one.")] = "",
    target_vector: Annotated[str, typer.Option(help="Name of the new vector.")] = "",
    batch: Annotated[int, typer.Option(help="Points per write request.")] = 1000,
    parallel: Annotated[int, typer.Option(help="Write requests at a time.")] = 4,
    resume: Annotated[bool, typer.Option(help="Take up an earlier run.")] = True,
    first_id: Annotated[str | None, typer.Option(help="Only from this id on: one machine's part of the work.")] = None,
    stop_id: Annotated[str | None, typer.Option(help="Only before this id.")] = None,
    shard_key: Annotated[str | None, typer.Option(help="Only this shard, with custom sharding.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias switched to the target after the check.")] = None,
) -> None:
    """Write a collection's transformed vectors into a new collection or a new named vector; resumable."""
    from llama_index_instruct.gstransform.collection import transform_collection
    from llama_index_instruct.gstransform.transform import GSTransform

    with errors_as_messages(), qdrant_client(url, path) as client:
        report = transform_collection(
            client,
            source,
            target,
            GSTransform.from_pretrained(transform),
            vector_name=vector_name,
            target_vector=target_vector,
            batch=batch,
            parallel=parallel,
            resume=resume,
            id_range=None if first_id is None and stop_id is None else (_point_id(first_id), _point_id(stop_id)),
            shard_key=shard_key,
            alias=alias,
        )
        checked = (
            "checked by count and sample" if report.complete else "a part; call once without a range to check the whole"
        )
        console.print(
            f"{report.transformed} points written in {report.seconds:.1f} s"
            f"{' (resumed)' if report.resumed else ''}; {checked}"
        )


def _tell(line: str) -> None:
    """Print a line that may hold labels and paths, which are no markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _labels(
    llm: LLM | None,
    label_field: str | None,
    label_model: str | None,
    embedder: BaseEmbedding | None,
    *,
    budget: Budget | None,
    checkpoint: Path,
    clusters: int,
    workers: int,
) -> LabelSource:
    from llama_index_instruct.gstransform.labelling import LabelSettings
    from llama_index_instruct.gstransform.sources import ClusterLabels, LLMLabels, MetadataLabels
    from llama_index_instruct.models import load_embed_model

    if sum(source is not None for source in (llm, label_field, label_model)) != 1:
        raise ConfigurationError("expected one of --llm MODEL, --label-field FIELD and --label-model MODEL")
    if label_field is not None:
        return MetadataLabels(label_field)
    if label_model is not None:
        return ClusterLabels(load_embed_model(label_model), clusters=clusters)
    if llm is None or embedder is None:
        raise ConfigurationError(
            "--embed-model: expected the model that made the stored vectors; it embeds the summaries"
        )

    def announce(estimate: LabellingEstimate) -> None:
        money = "" if budget is None or budget.prices is None else f", {estimate.cost(budget.prices):.2f} in money"
        tokens = estimate.prompt_tokens + estimate.completion_tokens
        console.print(
            f"Labelling will take about {estimate.calls} calls and {tokens} tokens{money}; second questions and retries "
            "come on top."
        )

    return LLMLabels(
        llm,
        embedder,
        settings=LabelSettings(clusters=clusters),
        budget=budget,
        checkpoint=checkpoint,
        workers=workers,
        on_estimate=announce,
        show_progress=True,
    )


def _budget(
    max_calls: int | None,
    max_tokens: int | None,
    max_cost: float | None,
    prompt_price: float | None,
    completion_price: float | None,
) -> Budget | None:
    from llama_index_instruct.teacher.usage import Budget, Prices

    if (prompt_price is None) != (completion_price is None):
        raise ConfigurationError("expected both --prompt-price and --completion-price, or neither")
    prices = None if prompt_price is None or completion_price is None else Prices(prompt_price, completion_price)
    if max_calls is None and max_tokens is None and max_cost is None and prices is None:
        return None
    return Budget(max_calls=max_calls, max_tokens=max_tokens, max_cost=max_cost, prices=prices)


def _point_id(written: str | None) -> int | str | None:
    if written is None or written.isdecimal():
        return None if written is None else int(written)
    try:
        return str(uuid.UUID(written))
    except ValueError as error:
        raise ConfigurationError(f"expected a point id, a number or a UUID, found {written!r}") from error
