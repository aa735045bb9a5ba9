"""fit_gstransform: nodes or a collection + an instruction -> a transform, resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_instruct.errors import ConfigurationError, IncompatibleStoreError
from llama_index_instruct.gstransform.classes import Label
from llama_index_instruct.gstransform.fingerprint import fingerprint
from llama_index_instruct.gstransform.fitting import Method, Settings
from llama_index_instruct.gstransform.labelling import LabellingReport, LabelSettings
from llama_index_instruct.gstransform.sampling import QdrantSource, Sample, sample_collection, sample_nodes
from llama_index_instruct.gstransform.sources import ClusterLabels, GivenLabels, LabelSource, LLMLabels
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.spans import span
from llama_index_instruct.teacher.usage import Budget

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import BasePydanticVectorStore


def fit_gstransform(
    source: Sequence[BaseNode] | BasePydanticVectorStore | QdrantSource | Any,
    *,
    instruction: str,
    llm: LLM | None = None,
    embed_model: BaseEmbedding | None = None,
    labels: LabelSource | Mapping[str, Label] | BaseEmbedding | None = None,
    sample: int = 3000,
    unlabelled: int = 6000,
    clusters: int = 50,
    label_settings: LabelSettings | None = None,
    checkpoint: Path | str | None = None,
    budget: Budget | None = None,
    workers: int = 20,
    metadata_mode: MetadataMode = MetadataMode.EMBED,
    vector_store: BasePydanticVectorStore | None = None,
    encode_missing: bool = False,
    method: Method = "ridge",
    settings: Settings | None = None,
    output_dimension: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> GSTransform:
    """Fit a transform for one instruction on a sample of what is stored.

    Vectors are read as stored; only the LLM's short summaries are embedded. What labelling did, lost and cost is in the
    result's ``info.labelling``, and is saved with it. Traces show a span ``fit_gstransform`` and below it ``.sample``,
    ``.probe``, ``.label`` (with one per kind of question to the LLM) and ``.fit``.

    Args:
        source: Nodes; a LlamaIndex vector store or index over Qdrant; or a ``QdrantSource``. For other stores give the nodes,
            and the store as ``vector_store``.
        instruction: The question the labels answer, such as "How does the writer feel?".
        llm: Makes the labels from the instruction; about 2 * sample + clusters short calls.
        embed_model: The model that made the stored vectors; embeds summaries, and its fingerprint is kept with the result.
        labels: In the LLM's place: a label source (``MetadataLabels``, ``ClusterLabels``, your own), labels by node id, or an
            embedding model that follows instructions (``InBedderEmbedding()``): its vectors under this instruction are
            clustered, and no LLM is asked.
        sample: Texts to be labelled; 3,000 are near the best in the paper, and 1,000 not far from it.
        unlabelled: Further vectors of the collection to learn from; they cost nothing but reading.
        clusters: See ``LabelSettings``; also of an embedding model's vectors.
        label_settings: All of the labelling's settings; then ``clusters`` must be left alone.
        checkpoint: Folder that keeps every answer of the LLM: a killed run goes on where it was, without paying twice.
        budget: Of calls, tokens and money.
        workers: LLM calls at a time.
        metadata_mode: Which metadata belongs to a text; as it was embedded.
        vector_store: Where the vectors of given nodes are stored.
        encode_missing: Allow nodes without a stored vector to be encoded with ``embed_model``.
        method: See ``GSTransform.from_labels``.
        settings: Of the method.
        output_dimension: See ``GSTransform.from_labels``.
        seed: Of sample and fit.
        show_progress: Show progress bars.

    Raises:
        ConfigurationError: If the input does not say where labels or vectors come from, or the budget is too small.
        LabellingError: If labels could not be made; what was paid for is in the checkpoint.
        MissingVectorsError: If stored vectors cannot be had.
        IncompatibleStoreError: If the collection's distance is not a cosine or dot product, or ``embed_model`` did not make its
            vectors (they differ in size).
    """
    if sample < 4 or unlabelled < 0:
        raise ConfigurationError(
            f"sample and unlabelled: expected 4 or more and 0 or more, found {sample} and {unlabelled}"
        )
    if (llm is None) == (labels is None):
        raise ConfigurationError("expected llm=... or labels=..., and not both")
    label_source = (
        _label_source(
            llm, embed_model, clusters, label_settings, checkpoint, budget, workers, metadata_mode, show_progress
        )
        if labels is None
        else _given(labels, instruction, clusters, metadata_mode)
    )
    with span("fit_gstransform", method=method) as counts:
        with span("fit_gstransform.sample") as stage:
            wanted = unlabelled if method == "ridge" else 0
            drawn = _draw(source, sample, wanted, seed, vector_store, embed_model if encode_missing else None)
            stage |= {"texts": len(drawn.nodes), "unlabelled": len(drawn.unlabelled)}
        with span("fit_gstransform.probe"):
            probes = _probed(embed_model, drawn)
        with span("fit_gstransform.label") as stage:
            found, report = label_source.label(drawn.nodes, instruction)
            stage |= report.counts
        with span("fit_gstransform.fit") as stage:
            transform = GSTransform.from_labels(
                drawn.vectors,
                found,
                instruction=instruction,
                method=method,
                settings=settings,
                unlabelled=drawn.unlabelled if len(drawn.unlabelled) else None,
                output_dimension=output_dimension,
                seed=seed,
                embed_model=_name(embed_model),
                distance=drawn.distance,
                fingerprint=probes,
            )
            stage["classes"] = len(transform.info.labels)
        counts |= {"texts": report.texts, "labelled": report.labelled, **stage}
    return replace(transform, info=replace(transform.info, labelling=_plain(report)))


def _probed(embed_model: BaseEmbedding | None, drawn: Sample) -> npt.NDArray[np.float32] | None:
    """Return the fingerprint of the model that made the vectors of a sample, once both fit together."""
    if drawn.distance not in ("", "Cosine", "Dot"):
        raise IncompatibleStoreError(f"expected a collection with distance Cosine or Dot, found {drawn.distance}")
    probes = None if embed_model is None else fingerprint(embed_model)
    if probes is not None and probes.shape[1] != drawn.vectors.shape[1]:
        raise IncompatibleStoreError(
            f"embed_model {_name(embed_model)!r} makes vectors of size {probes.shape[1]}, the stored ones have "
            f"{drawn.vectors.shape[1]}; give the model that made them"
        )
    return probes


def _given(
    labels: LabelSource | Mapping[str, Label] | BaseEmbedding,
    instruction: str,
    clusters: int,
    metadata_mode: MetadataMode,
) -> LabelSource:
    if isinstance(labels, Mapping):
        return GivenLabels(labels)
    if not isinstance(labels, BaseEmbedding):
        return labels
    asking = getattr(labels, "with_instruction", None)
    if asking is None:
        raise ConfigurationError(
            f"labels: expected an embedding model that follows instructions, found {type(labels).__name__}; to cluster its "
            "vectors all the same, give ClusterLabels(embed_model)"
        )
    return ClusterLabels(asking(instruction), clusters, metadata_mode)


def _label_source(
    llm: LLM | None,
    embed_model: BaseEmbedding | None,
    clusters: int,
    label_settings: LabelSettings | None,
    checkpoint: Path | str | None,
    budget: Budget | None,
    workers: int,
    metadata_mode: MetadataMode,
    show_progress: bool,
) -> LabelSource:
    if label_settings is not None and clusters != LabelSettings().clusters:
        raise ConfigurationError("clusters: is a part of label_settings; give LabelSettings(clusters=...) only")
    assert llm is not None
    if embed_model is None:
        raise ConfigurationError(
            "embed_model: expected the model that made the stored vectors; it embeds the summaries"
        )
    return LLMLabels(
        llm,
        embed_model,
        settings=label_settings or LabelSettings(clusters=clusters),
        workers=workers,
        budget=budget,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        metadata_mode=metadata_mode,
        show_progress=show_progress,
    )


def _draw(
    source: Any,
    sample: int,
    unlabelled: int,
    seed: int,
    vector_store: BasePydanticVectorStore | None,
    encoder: BaseEmbedding | None,
) -> Sample:
    source = getattr(source, "vector_store", source)
    if isinstance(source, QdrantSource):
        return sample_collection(source, sample, unlabelled, seed=seed)
    if hasattr(source, "class_name") and source.class_name() == "QdrantVectorStore":
        if source.client is None:
            raise ConfigurationError("vector_store: expected a synchronous Qdrant client, found only an async one")
        collection = QdrantSource(
            source.client, source.collection_name, source.dense_vector_name, source.text_key or "text"
        )
        return sample_collection(collection, sample, unlabelled, seed=seed)
    if isinstance(source, Sequence) and all(isinstance(node, BaseNode) for node in source):
        if not source:
            raise ConfigurationError("source: expected nodes, found an empty list")
        return sample_nodes(source, sample, unlabelled, seed=seed, vector_store=vector_store, embed_model=encoder)
    raise ConfigurationError(
        f"source: expected nodes, a QdrantVectorStore, an index over one, or a QdrantSource, found {type(source).__name__}; "
        "for other stores give the nodes, and the store as vector_store=..."
    )


def _name(embed_model: BaseEmbedding | None) -> str:
    return "" if embed_model is None else embed_model.model_name


def _plain(report: LabellingReport) -> dict[str, Any]:
    return {**asdict(report), "categories": list(report.categories), "summary": str(report)}
