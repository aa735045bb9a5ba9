"""The two terms of the recipe, over unit vectors: InfoNCE and soft-label distillation within each query's group."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrast(queries: Tensor, documents: Tensor, temperature: float, known: Tensor | None = None) -> Tensor:
    """Return InfoNCE of b queries, each against all documents of the batch.

    Args:
        queries: Shape (b, d), unit rows.
        documents: Shape (b, g, d), unit rows; the first of each group is the positive.
        temperature: Of the softmax.
        known: Shape (b, b * g), True where a document is known to answer a query: it is no negative of it.
    """
    b, g, d = documents.shape
    scores = queries @ documents.reshape(b * g, d).T / temperature
    positives = torch.arange(b, device=scores.device) * g
    if known is not None:
        hidden = known.clone()
        hidden[torch.arange(b, device=scores.device), positives] = False
        scores = scores.masked_fill(hidden, float("-inf"))
    return functional.cross_entropy(scores, positives)


def group_contrast(queries: Tensor, documents: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE of each query within its own group: for labels, which other queries of the batch may share."""
    scores = group_scores(queries, documents) / temperature
    return functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def distillation(
    queries: Tensor, documents: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float
) -> Tensor:
    """Return the soft cross-entropy between the teacher's and the model's distribution over each query's group.

    Not multiplied by the squared temperature, as sentence-transformers' ``DistillKLDivLoss`` is: at 0.02 that would leave
    a 2,500th of the gradient.

    Args:
        queries: Shape (b, d), unit rows.
        documents: Shape (b, g, d), unit rows.
        teacher: Shape (b, g), raw scores.
        temperature: Of the model's softmax.
        teacher_temperature: Of the teacher's.
    """
    wanted = functional.softmax(teacher.float() / teacher_temperature, dim=1)
    found = functional.log_softmax(group_scores(queries, documents) / temperature, dim=1)
    return -(wanted * found).sum(dim=1).mean()


def group_scores(queries: Tensor, documents: Tensor) -> Tensor:
    """Return the cosines (b, g) of queries and the documents of their groups."""
    return torch.einsum("bd,bgd->bg", queries, documents)
