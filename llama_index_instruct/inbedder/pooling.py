"""Which hidden states are the embedding; tensors in, tensors out (definitions: paper section 3.3 and the released code)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Pooling = Literal["first_gen", "avg_gen", "last_gen", "avg_prompt", "expected_answer"]


def masked_mean(states: Tensor, chosen: Tensor) -> Tensor:
    """Return the (b, d) mean of the (b, t, d) states where the (b, t) mask is true; zeros for a row without any."""
    states = states.float()  # half precision counts only so far
    weights = chosen.float().unsqueeze(-1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def pool_steps(states: Tensor, kept: Tensor, pooling: Literal["avg_gen", "last_gen"], *, feeds_back: bool) -> Tensor:
    """Pool the states of greedy decoding.

    Step 0 is the state that predicts the first answer token, step j the one that predicts token j + 1. A step is kept
    if the token it predicts is neither special nor filtered.

    A causal model (``feeds_back``) reads each token back at a position of its own; its step 0 is the last prompt token:
    always part of the mean, never the "last" one. Without any kept later step, step 1 stands in for them. Where there is
    no step 1 at all (one answer token), step 0 is the embedding; the released code fails there.

    Args:
        states: (b, s, d).
        kept: (b, s), booleans.
        pooling: ``"avg_gen"`` or ``"last_gen"``.
        feeds_back: True for causal, False for encoder-decoder models, whose step 0 is like the others.
    """
    kept = kept.clone()
    if not feeds_back:
        kept[:, 0] |= ~kept.any(dim=1)
    elif states.shape[1] == 1:
        kept[:, 0] = True
    else:
        kept[:, 1] |= ~kept[:, 1:].any(dim=1)
        kept[:, 0] = pooling == "avg_gen"
    if pooling == "avg_gen":
        return masked_mean(states, kept)
    last = (kept * torch.arange(1, kept.shape[1] + 1, device=kept.device)).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def expected_answer(scores: Tensor, words: Tensor) -> Tensor:
    """Return the mean word embedding under the model's distribution over the first answer word, (b, d).

    Our own read-out, not the paper's: it keeps of a text only what the model would answer.

    Args:
        scores: (b, words), logits at the first answer position.
        words: (words, d), the output embeddings.
    """
    return functional.softmax(scores.float(), dim=1).to(words.dtype) @ words


def blended(answer: Tensor, prompt: Tensor, share: float) -> Tensor:
    """Return the answer's direction and, by a share, the prompt's: what the text says besides its answer, (b, d).

    Where a model is unsure of its answer, texts that say the same still come near each other; where it is sure, the answer
    decides.

    Args:
        answer: (b, d).
        prompt: (b, d).
        share: Length of the prompt's part beside an answer of length one.
    """
    return functional.normalize(answer.float(), dim=1) + share * functional.normalize(prompt.float(), dim=1)
