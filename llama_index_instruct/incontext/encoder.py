"""Decoder LM -> last-token states, with the beginning that queries share computed once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llama_index_instruct.embedders.devices import batch_tokens as default_batch_tokens
from llama_index_instruct.embedders.packing import run_packed
from llama_index_instruct.embedders.positions import accepts_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel


SHARED_COUNTS = 4
"""How many times the tokens of a batch may be held when most of them come from the shared beginning."""


class LastTokenEncoder:
    """Embeds token ids by the final state of their last token. One thread at a time; others wait.

    Args:
        body: A decoder without language-model head, in evaluation mode.
        pad: Token that fills up rows; its states are never read.
        batch_tokens: Tokens of a batch, padding included; None: by the device.
        pad_left: Pad before instead of behind; the states are the same.
    """

    def __init__(
        self, body: PreTrainedModel, pad: int, *, batch_tokens: int | None = None, pad_left: bool = False
    ) -> None:
        self.body: Any = body
        self.batch_tokens = batch_tokens or default_batch_tokens(self.body.device)
        self._pad = pad
        self._pad_left = pad_left
        self._takes_positions = accepts_positions(body)
        self._lock = threading.Lock()
        self._shared: tuple[tuple[int, ...], DynamicCache] | None = None

    def embed(self, rows: Sequence[Sequence[int]], shared: Sequence[int] = ()) -> NDArray[np.float32]:
        """Return the states, (n, d), not normalised.

        Args:
            rows: Token ids, at least one each.
            shared: What rows begin with; computed once and kept for the next call. Rows that begin otherwise, or hold nothing
                more, are computed in full.
        """
        states: list[Any] = [None] * len(rows)
        beginning = list(shared)
        short = [
            i
            for i, row in enumerate(rows)
            if len(row) > len(beginning) > 0 and list(row[: len(beginning)]) == beginning
        ]
        whole = sorted(set(range(len(rows))) - set(short))
        with self._lock, torch.inference_mode():
            self._embed_into(states, rows, short, beginning)
            self._embed_into(states, rows, whole, [])
        return np.stack(states) if states else np.empty((0, 0), dtype=np.float32)

    def _embed_into(
        self, states: list[Any], rows: Sequence[Sequence[int]], chosen: Sequence[int], start: Sequence[int]
    ) -> None:
        rests = [rows[i][len(start) :] for i in chosen]

        def read(at: list[int]) -> None:
            pooled = self._forward([rests[k] for k in at], start)
            for k, state in zip(at, pooled.float().cpu().numpy(), strict=True):
                states[chosen[k]] = state

        # Keys and values of the beginning are held once per row: they count, though they are not computed.
        budget = self.batch_tokens * (SHARED_COUNTS if start else 1)
        run_packed([len(start) + len(rest) for rest in rests], budget, read)

    def __deepcopy__(self, memo: dict[int, Any]) -> LastTokenEncoder:
        return self  # the weights never change, and calls wait for each other

    def _forward(self, rests: Sequence[Sequence[int]], start: Sequence[int]) -> Tensor:
        device = self.body.device
        longest = max(len(rest) for rest in rests)
        left = self._pad_left and not start
        ids = torch.full((len(rests), longest), self._pad)
        mask = torch.zeros_like(ids)
        for row, rest in enumerate(rests):
            place = slice(longest - len(rest), longest) if left else slice(0, len(rest))
            ids[row, place] = torch.tensor(rest)
            mask[row, place] = 1
        last = torch.tensor([longest - 1 if left else len(rest) - 1 for rest in rests], device=device)
        seen = torch.cat([torch.ones((len(rests), len(start)), dtype=mask.dtype), mask], dim=1)
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": seen.to(device)}
        if self._takes_positions:
            positions = (seen.cumsum(dim=1) - 1).clamp(min=0)[:, len(start) :]
            inputs["position_ids"] = positions.to(device)
        if start:
            inputs |= {"past_key_values": self._beginning(tuple(start), len(rests)), "use_cache": True}
        else:
            inputs["use_cache"] = False
        states: Tensor = self.body(**inputs).last_hidden_state
        return states[torch.arange(len(rests), device=device), last]

    def _beginning(self, start: tuple[int, ...], rows: int) -> DynamicCache:
        """Return the keys and values of the shared beginning, once per row, as a copy: caches grow in place."""
        if self._shared is None or self._shared[0] != start:
            cache = DynamicCache(config=self.body.config)
            ids = torch.tensor([start], device=self.body.device)
            self.body(input_ids=ids, past_key_values=cache, use_cache=True)
            self._shared = (start, cache)
        copied = copy.deepcopy(self._shared[1])
        copied.batch_repeat_interleave(rows)
        return copied
