"""Prompts -> token ids of bounded length; only the text is ever cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_index_instruct.embedders.positions import surroundings
from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llama_index_instruct.inbedder.loading import Kind
    from llama_index_instruct.inbedder.template import PromptTemplate


class PromptTokenizer:
    """Fills a template and tokenises it, so that instruction and answer cue always survive.

    A text too long for the window loses its end, at a token boundary, and the prompt is tokenised again: the model
    reads what it would have read had the text been that short. Names of special tokens inside a text or an
    instruction ("[MASK]", "</s>") are read as plain characters.

    Args:
        tokenizer: A fast tokenizer (offsets are needed to cut a text).
        template: How text and instruction are joined.
        max_length: Longest prompt in tokens, special tokens and ``suffix`` included.
        prefix: Special tokens that open every prompt, such as ``[CLS]``.
        suffix: Tokens that close every prompt, such as three masks and ``[SEP]``.

    Raises:
        ConfigurationError: If the tokenizer is not a fast one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: PromptTemplate,
        *,
        max_length: int,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        if not tokenizer.is_fast:
            raise ConfigurationError(f"tokenizer: expected a fast tokenizer, found {type(tokenizer).__name__}")
        self._tokenizer = tokenizer
        self._template = template
        self._prefix = list(prefix)
        self._suffix = list(suffix)
        self._names = _special_pieces(tokenizer)
        self.room = max_length - len(self._prefix) - len(self._suffix)

    def encode(self, texts: Sequence[str], instructions: Sequence[str]) -> tuple[list[list[int]], int]:
        """Return the token ids of every prompt, and how many texts had to be cut.

        Raises:
            ConfigurationError: If an instruction alone does not fit the window.
        """
        if not texts:
            return [], 0
        texts = [self._plain(text) for text in texts]
        instructions = [self._plain(question) for question in instructions]
        prompts = [self._template.fill(text, question) for text, question in zip(texts, instructions, strict=True)]
        rows = self._tokens(prompts)
        cut = 0
        for i, row in enumerate(rows):
            if len(row) > self.room:
                rows[i] = self._shortened(texts[i], instructions[i], len(row))
                cut += 1
        return [[*self._prefix, *row, *self._suffix] for row in rows], cut

    def _plain(self, text: str) -> str:
        for name in self._names:
            text = text.replace(name, f"{name[0]} {name[1:]}")
        return text

    def _tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer(list(prompts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"])

    def _shortened(self, text: str, instruction: str, found: int) -> list[int]:
        bare = len(self._tokens([self._template.fill("", instruction)])[0])
        if bare > self.room:
            raise ConfigurationError(
                f"instruction: expected at most {self.room} tokens with the template, found {bare}: {instruction[:80]!r}"
            )
        ends = [end for _, end in self._offsets(text)]
        keep = max(0, len(ends) - (found - self.room))
        while keep > 0:
            row = self._tokens([self._template.fill(text[: ends[keep - 1]], instruction)])[0]
            if len(row) <= self.room:
                return row
            keep -= len(row) - self.room  # tokens may merge differently at the new end
        return self._tokens([self._template.fill("", instruction)])[0]

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        return list(encoded["offset_mapping"])


def special_tokens(tokenizer: PreTrainedTokenizerFast, kind: Kind, masks: int) -> tuple[list[int], list[int]]:
    """Return what opens and what closes a prompt of this kind of model, as token ids.

    Masked: ``[CLS]`` and the masks with ``[SEP]``. Causal: what the tokenizer itself puts in front, and nothing behind, so
    that the last prompt token is the answer cue. Sequence-to-sequence: what the tokenizer puts around a text.
    """
    if kind == "masked":
        return [tokenizer.cls_token_id], [tokenizer.mask_token_id] * masks + [tokenizer.sep_token_id]
    before, behind = surroundings(tokenizer)
    return before, behind if kind == "seq2seq" else []


def _special_pieces(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the special tokens whose names are also ordinary pieces, as in Unigram vocabularies: those must be broken up."""
    special = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens if len(name) > 1}
    return [
        name
        for name, token in special.items()
        if token in tokenizer(name, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ]
