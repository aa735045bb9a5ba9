"""Models with random weights, for times: slow and fast like trained ones, whatever they say."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, OPTConfig, PreTrainedTokenizerFast

from llama_index_instruct.embedders.positions import load_tokenizer
from llama_index_instruct.models import MINILM, resolve_model

LAYERS, WIDTH, HEADS, POSITIONS = 6, 384, 12, 1024


def random_llama(kind: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return a Llama-type model of six layers and width 384, and MiniLM's tokenizer for it.

    Args:
        kind: ``LlamaModel`` or one of its heads' classes.
    """
    return _random(kind, LlamaConfig, intermediate_size=4 * WIDTH)


def random_opt(kind: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return an OPT-type model of the same size, and the same tokenizer.

    Args:
        kind: ``OPTModel`` or one of its heads' classes.
    """
    return _random(kind, OPTConfig, ffn_dim=4 * WIDTH, word_embed_proj_dim=WIDTH)


def _random(kind: Any, config: Any, **own: int) -> tuple[Any, PreTrainedTokenizerFast]:
    tokenizer = load_tokenizer(resolve_model(MINILM))
    settings = config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **own,
    )
    torch.manual_seed(0)
    return kind(settings).eval(), tokenizer
