"""Greedy decoding that keeps the state of every step, for causal and encoder-decoder models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Any], tuple[Tensor, Tensor, Any]]
"""Tokens to feed (b, t) and the cache -> state (b, d) and scores (b, words) at the last position, and the new cache."""


@dataclass(frozen=True)
class Decoded:
    """What greedy decoding gave.

    Attributes:
        tokens: (b, s), the predicted tokens; after an end token only padding.
        states: (b, s, d), the state that predicts each of them.
    """

    tokens: Tensor
    states: Tensor


def decode(step: Step, first: Tensor, cache: Any, *, steps: int, end: set[int], pad: int) -> Decoded:
    """Decode greedily until every row has ended, at least two steps where two are allowed.

    Two, because the pooling of a row falls back on its second state: it must not depend on how long the batch goes on.

    Args:
        step: One forward pass.
        first: (b, t), what the first pass is fed.
        cache: What the first pass is given as cache.
        steps: Most tokens to predict.
        end: Tokens that end a row.
        pad: Token written after the end.
    """
    fed, tokens, states = first, [], []
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    ends = torch.tensor(sorted(end), device=first.device)
    for number in range(steps):
        state, scores, cache = step(fed, cache)
        predicted = scores.argmax(dim=-1).masked_fill(ended, pad)
        tokens.append(predicted)
        states.append(state)
        ended = ended | torch.isin(predicted, ends)
        fed = predicted[:, None]
        if number >= 1 and bool(ended.all()):
            break
    return Decoded(torch.stack(tokens, dim=1), torch.stack(states, dim=1))
