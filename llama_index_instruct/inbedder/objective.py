"""The two contrastive terms of our training objective; tensors in, a scalar out.

The paper trains with the answer's cross-entropy alone (section 3.2). A small model then answers, but its states are
poor embeddings; both terms below act on the states themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SAME_ANSWER = 0.98
"""Two answers whose embeddings have at least this cosine count as one answer."""


def answer_contrast(states: Tensor, answers: Tensor, scale: float) -> Tensor:
    """InfoNCE from each state to the embedding of its own answer, against the batch's other answers.

    Args:
        states: (b, d), the answer states of the model in training.
        answers: (b, d), a frozen encoder's embeddings of the gold answers.
        scale: Inverse temperature on cosines.
    """
    states, answers = functional.normalize(states, dim=1), functional.normalize(answers, dim=1)
    repeated = (answers @ answers.T > SAME_ANSWER) & ~_diagonal(len(states), states.device)
    logits = (scale * states @ answers.T).masked_fill(repeated, -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(states), device=states.device))


def state_contrast(states: Tensor, answers: Tensor, scale: float) -> Tensor:
    """Supervised contrast among the states: those of one answer attract, all others of the batch repel.

    With several questions about one text, and several texts under one question in the batch, what a state must lose is
    exactly what it keeps of the text beyond the answer. Rows without a partner take no part; zero if there is none.

    Args:
        states: (b, d).
        answers: (b, d), as in ``answer_contrast``.
        scale: Inverse temperature on cosines.
    """
    states, answers = functional.normalize(states, dim=1), functional.normalize(answers, dim=1)
    itself = _diagonal(len(states), states.device)
    partners = (answers @ answers.T > SAME_ANSWER) & ~itself
    logits = (scale * states @ states.T).masked_fill(itself, -torch.inf)
    log_share = functional.log_softmax(logits, dim=1).masked_fill(~partners, 0.0)
    count = partners.sum(dim=1)
    paired = count > 0
    if not bool(paired.any()):
        return states.sum() * 0.0
    return -(log_share.sum(dim=1)[paired] / count[paired]).mean()


def _diagonal(size: int, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=torch.bool, device=device)
