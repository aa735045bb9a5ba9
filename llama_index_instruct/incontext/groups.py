"""What a model is trained on: rows of one task, and how a batch of them is written down."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.incontext.mined import MinedRow
from llama_index_instruct.incontext.prompts import TaskHead

if TYPE_CHECKING:
    from llama_index_instruct.incontext.prompts import InContextTokenizer
    from llama_index_instruct.incontext.template import Example

Kind = Literal["retrieval", "similarity", "classification", "clustering"]
COMPARED_IN_BATCH = ("retrieval", "similarity")
INSTRUCTED_PASSAGES = ("similarity", "clustering")
BOUNDED_TEMPERATURE = 0.02
"""Of a teacher whose scores lie in [-1, 1]: the temperature of the cosines, chosen by measurement."""


@dataclass(frozen=True)
class TrainingSet:
    """Rows of one task.

    Attributes:
        name: In logs, checkpoints and the model card.
        rows: With the same number of negatives in all (none is allowed where ``kind`` compares in the batch), and with soft
            scores in all or in none.
        task: The instruction queries are read with; empty for models that take none (template ``"bare"``).
        kind: Queries of ``"retrieval"`` and ``"similarity"`` are compared with all passages of a batch, those of
            ``"classification"`` and ``"clustering"``, where other rows have the same label, with their own only. Passages of
            ``"similarity"`` and ``"clustering"`` are read with the instruction too, without examples.
        notes: Source and licence, for the model card.
    """

    name: str
    rows: Sequence[MinedRow]
    task: str = ""
    kind: Kind = "retrieval"
    notes: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigurationError(
                f"training set {self.name}: kind: expected one of {', '.join(get_args(Kind))}, found {self.kind!r}"
            )
        if not self.rows:
            raise ConfigurationError(f"training set {self.name}: expected rows, found none")
        counts = {len(row.negatives) for row in self.rows}
        if len(counts) > 1:
            raise ConfigurationError(
                f"training set {self.name}: expected the same number of negatives in all rows, found {sorted(counts)}"
            )
        if len({bool(row.scores) for row in self.rows}) > 1:
            raise ConfigurationError(
                f"training set {self.name}: expected soft scores in all rows or in none, found both"
            )
        if counts == {0} and not self.in_batch:
            raise ConfigurationError(
                f"training set {self.name}: expected negatives, as rows of a {self.kind} task share labels"
            )

    @property
    def in_batch(self) -> bool:
        """Return whether other rows' passages are negatives."""
        return self.kind in COMPARED_IN_BATCH

    @property
    def bounded(self) -> bool:
        """Return whether the teacher's scores are cosines or probabilities, and not logits."""
        return all(abs(score) <= 1.0 for row in self.rows for score in row.scores)

    def columns(self) -> dict[str, list[Any]]:
        """Return the rows as columns of a dataset."""
        return {
            "query": [row.query for row in self.rows],
            "documents": [[row.positive, *row.negatives] for row in self.rows],
            "scores": [list(row.scores) for row in self.rows],
        }


@dataclass
class GroupCollator:
    """Writes a batch: queries with 0 to k examples taken from the other rows, passages as they are.

    A batch becomes two features: ``query`` with b rows and ``documents`` with b * g, the positive first in each group.

    Attributes:
        tokenizer: Writes queries and passages, as ``InContextEmbedding`` does.
        sets: By name.
        most_examples: k; how many a query gets is drawn uniformly from 0 to k.
        seed: Of the draws, together with the batch itself: a resumed run draws the same.
        pad: Token that fills up rows.
    """

    tokenizer: InContextTokenizer
    sets: Mapping[str, TrainingSet]
    most_examples: int
    seed: int
    pad: int
    valid_label_columns: list[str] = field(default_factory=lambda: ["label"])

    def __post_init__(self) -> None:
        self._answers: dict[str, dict[str, set[str]]] = {}
        for name, found in self.sets.items():
            for row in found.rows:
                self._answers.setdefault(name, {}).setdefault(row.query, set()).add(row.positive)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the tensors of a batch; all rows come from one training set."""
        chosen = self.sets[rows[0]["dataset_name"]]
        texts = [text for row in rows for text in row["documents"]]
        batch: dict[str, Any] = {"dataset_name": chosen.name}
        if rows[0]["scores"]:
            batch["label"] = torch.tensor([row["scores"] for row in rows], dtype=torch.float32)
        batch |= _padded("query", self._queries(rows, chosen.task), self.pad)
        documents = (
            self.tokenizer.queries(texts, TaskHead(chosen.task, (), ()))
            if chosen.kind in INSTRUCTED_PASSAGES
            else self.tokenizer.passages(texts)
        )
        batch |= _padded("documents", documents, self.pad)
        batch["documents_known"] = self._known(rows, texts, chosen.name)
        return batch

    def _queries(self, rows: Sequence[Mapping[str, Any]], task: str) -> list[list[int]]:
        digest = hashlib.sha256("\x1f".join(row["query"] for row in rows).encode("utf-8", "replace")).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])
        prompts = []
        for i, row in enumerate(rows):
            others = [other for other in range(len(rows)) if rows[other]["query"] != row["query"]]
            count = min(int(rng.integers(self.most_examples + 1)), len(others))
            shown = [_example(rows[at]) for at in rng.permutation(others)[:count].tolist()] if count else []
            head = TaskHead(task, self.tokenizer.fitting(task, shown), ())
            prompts += self.tokenizer.queries([rows[i]["query"]], head)
        return prompts

    def _known(self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], name: str) -> Tensor:
        """Return where a passage of the batch, (b * g), is known to answer a query, (b): it must not be its negative."""
        answers = self._answers[name]
        return torch.tensor([[text in answers[row["query"]] for text in texts] for row in rows])


def _example(row: Mapping[str, Any]) -> Example:
    return row["query"], row["documents"][0]


def _padded(column: str, rows: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return {f"{column}_input_ids": ids, f"{column}_attention_mask": mask}
