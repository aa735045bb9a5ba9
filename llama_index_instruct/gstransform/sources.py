"""Where labels come from: an LLM, labels you have, a metadata field, or the clusters of any embedding model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_instruct.errors import ConfigurationError, LabellingError
from llama_index_instruct.gstransform.classes import Label
from llama_index_instruct.gstransform.clusters import cluster, cluster_count
from llama_index_instruct.gstransform.labelling import LabellingEstimate, LabellingReport, LabelSettings
from llama_index_instruct.gstransform.labels import estimate_labelling, label_with_llm
from llama_index_instruct.teacher.answers import AnswerFile
from llama_index_instruct.teacher.asking import Asker
from llama_index_instruct.teacher.usage import Budget

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

logger = logging.getLogger(__name__)
Labels = tuple[list[Label], LabellingReport]


class LabelSource(Protocol):
    """Anything that labels nodes for an instruction."""

    def label(self, nodes: Sequence[BaseNode], instruction: str) -> Labels:
        """Return a label per node, None where there is none, and what happened."""
        ...


@dataclass(frozen=True)
class LLMLabels:
    """Labels made by an LLM from the instruction; see ``gstransform.labels``.

    Attributes:
        llm: Any LlamaIndex LLM.
        embed_model: Embeds summaries and names.
        settings: Of the labelling.
        workers: Calls at a time.
        retries: Calls made again after a failure that may heal.
        patience: Seconds to wait for an LLM that keeps failing; see ``Asker``.
        budget: Of calls, tokens and money. An estimate above it is an error before the first call.
        checkpoint: Folder that keeps every answer, so that a killed run is not paid twice; None = none.
        metadata_mode: Which metadata of a node the LLM sees.
        on_estimate: Called with the estimate before the first call; by default it is logged.
        show_progress: Show progress bars.
    """

    llm: LLM
    embed_model: BaseEmbedding
    settings: LabelSettings = field(default_factory=LabelSettings)
    workers: int = 20
    retries: int = 4
    patience: float = 120.0
    budget: Budget | None = None
    checkpoint: Path | None = None
    metadata_mode: MetadataMode = MetadataMode.EMBED
    on_estimate: Callable[[LabellingEstimate], None] | None = None
    show_progress: bool = False

    def label(self, nodes: Sequence[BaseNode], instruction: str) -> Labels:
        """Return a label per node and what happened.

        Raises:
            ConfigurationError: If the instruction is empty, or the estimate is above the budget.
            LabellingError: See ``label_with_llm``.
        """
        if not instruction.strip():
            raise ConfigurationError("instruction: expected the question the labels answer, found an empty string")
        texts = [node.get_content(self.metadata_mode) for node in nodes]
        with AnswerFile(None if self.checkpoint is None else self.checkpoint / "answers.jsonl") as answers:
            asker = Asker(
                self.llm,
                workers=self.workers,
                retries=self.retries,
                patience=self.patience,
                budget=self.budget,
                answers=answers,
                show_progress=self.show_progress,
            )
            estimate = estimate_labelling(texts, instruction, asker, self.embed_model, self.settings)
            self._announce(estimate)
            labels, report = label_with_llm(texts, instruction, asker, self.embed_model, self.settings)
        return list(labels), report

    def _announce(self, estimate: LabellingEstimate) -> None:
        tokens = estimate.prompt_tokens + estimate.completion_tokens
        logger.info("labelling: about %d calls and %d tokens", estimate.calls, tokens)
        if self.on_estimate is not None:
            self.on_estimate(estimate)
        budget = self.budget
        if budget is None:
            return
        spent = budget.spent
        wanted: list[tuple[str, float, float, float | None]] = [
            ("calls", estimate.calls, spent.calls, budget.max_calls),
            ("tokens", tokens, spent.tokens, budget.max_tokens),
        ]
        if budget.prices is not None:
            wanted.append(("money", estimate.cost(budget.prices), budget.prices.cost(spent), budget.max_cost))
        for what, needed, gone, limit in wanted:
            allowed = None if limit is None else max(0.0, limit - gone)
            if allowed is not None and needed > allowed:
                raise ConfigurationError(
                    f"budget: labelling needs about {needed:g} {what}, the budget has {allowed:g} left; take a smaller sample, "
                    "fewer clusters or a larger budget; nothing was asked yet"
                )


@dataclass(frozen=True)
class GivenLabels:
    """Labels you have.

    Attributes:
        labels: By node id; nodes without one stay unlabelled.
    """

    labels: Mapping[str, Label]

    def label(self, nodes: Sequence[BaseNode], instruction: str) -> Labels:
        """Return a label per node and what happened."""
        return _reported("given", [self.labels.get(node.node_id) for node in nodes])


@dataclass(frozen=True)
class MetadataLabels:
    """Labels from a field of the nodes' metadata.

    Attributes:
        field: Its key; nodes without it stay unlabelled.
    """

    field: str

    def label(self, nodes: Sequence[BaseNode], instruction: str) -> Labels:
        """Return a label per node and what happened."""
        labels = [_as_label(node.metadata.get(self.field)) for node in nodes]
        fields = sorted({name for node in nodes for name in node.metadata})
        return _reported("metadata", labels, f"field {self.field!r}; the nodes have {', '.join(fields) or 'none'}")


@dataclass(frozen=True)
class ClusterLabels:
    """Clusters of another embedding model's vectors as labels; an instruction-following model needs no LLM.

    Attributes:
        embed_model: Its vectors of the texts are clustered.
        clusters: How many, k; half the texts where there are fewer than twice as many.
        metadata_mode: Which metadata of a node the model sees.
        seed: Of the start.
    """

    embed_model: BaseEmbedding
    clusters: int = 50
    metadata_mode: MetadataMode = MetadataMode.EMBED
    seed: int = 42

    def label(self, nodes: Sequence[BaseNode], instruction: str) -> Labels:
        """Return a label per node and what happened."""
        texts = [node.get_content(self.metadata_mode) for node in nodes]
        vectors = np.array(self.embed_model.get_text_embedding_batch(texts), dtype=np.float32)
        found = cluster(vectors, cluster_count(self.clusters, len(texts)), seed=self.seed)
        return _reported("clusters", [f"cluster {number}" for number in found])


def _as_label(value: object) -> Label:
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _reported(source: str, labels: list[Label], detail: str = "") -> Labels:
    labelled = sum(label is not None for label in labels)
    if labelled < 2:
        where = f"{source} {detail}".strip()
        raise LabellingError(f"expected labels for at least two of {len(labels)} texts, found {labelled} ({where})")
    return labels, LabellingReport(source=source, texts=len(labels), labelled=labelled, dropped=len(labels) - labelled)
