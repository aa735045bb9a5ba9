"""Decoder LMs without their language-model head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llama_index_instruct.embedders.devices import choose_dtype, default_device
from llama_index_instruct.embedders.positions import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_decoder(
    path: str, device: str | None, dtype: str, **source: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a decoder's body and its tokenizer, for embedding.

    Args:
        path: Folder or Hub name; a folder of LoRA weights is put onto its base (needs the extra ``train``).
        device: For example ``"cuda:0"``; None takes an accelerator if there is one.
        dtype: As in ``choose_dtype``.
        source: Handed to the loaders, such as ``revision``.
    """
    from transformers import AutoModel

    target = torch.device(device or default_device())
    body: Any = AutoModel.from_pretrained(path, dtype=choose_dtype(dtype, target), **source)
    return body.to(target).eval(), load_tokenizer(path, **source)
