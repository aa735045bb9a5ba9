"""Models with random weights, for times: slow and fast like trained ones, whatever they say."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast

from llama_index_instruct.embedders.positions import load_tokenizer
from llama_index_instruct.models import MINILM, resolve_model


def random_llama(kind: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return a Llama-type model of six layers and width 384, and MiniLM's tokenizer for it.

    Args:
        kind: ``LlamaModel`` or one of its heads' classes.
    """
    tokenizer = load_tokenizer(resolve_model(MINILM))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    torch.manual_seed(0)
    return kind(config).eval(), tokenizer
