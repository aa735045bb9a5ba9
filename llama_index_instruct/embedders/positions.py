"""Tokenizers and positions of Hugging Face models: what differs between families."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

UNLIMITED = 1_000_000


def load_tokenizer(path: str, **settings: Any) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a folder or Hub model; one without a padding token pads with its end token."""
    from transformers import AutoTokenizer

    return padding(AutoTokenizer.from_pretrained(path, **settings))


def padding(tokenizer: Any) -> PreTrainedTokenizerFast:
    """Let a tokenizer without a padding token pad with its end token, and return it."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    return cast("PreTrainedTokenizerFast", tokenizer)


def longest_prompt(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many tokens the model and its tokenizer are made for."""
    return int(min(positions(config), tokenizer.model_max_length))


def positions(config: PretrainedConfig) -> int:
    """Return how many tokens the model can read at most, prompt and answer together.

    RoBERTa counts its positions from the padding token's number, so its table holds that many more than it can read.
    """
    table = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if table is None:
        return UNLIMITED
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        table -= int(config.pad_token_id) + 1
    return int(table)


def position_ids(model: PreTrainedModel, attention_mask: Tensor) -> dict[str, Tensor]:
    """Return the positions of a left-padded batch as keyword argument, for models that take any.

    Without them a model with absolute positions (GPT-2) reads a padded prompt as if it started late.
    """
    if not accepts_positions(model):
        return {}
    return {"position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0)}


def accepts_positions(model: PreTrainedModel) -> bool:
    """Tell whether a model can be told the positions of its tokens."""
    return "position_ids" in inspect.signature(model.forward).parameters


def surroundings(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return what a tokenizer itself puts before and behind a text."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return full[:at], full[at + len(plain) :]
