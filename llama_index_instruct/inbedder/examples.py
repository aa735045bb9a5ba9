"""Triples -> token ids, and token ids -> the tensors of one training step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from llama_index_instruct.inbedder.template import INBEDDER, PromptTemplate
from llama_index_instruct.inbedder.tokenization import PromptTokenizer, special_tokens
from llama_index_instruct.inbedder.triples import QATriple, without_stopwords

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llama_index_instruct.inbedder.loading import Kind

CUE = "Response:"
"""How every prompt ends."""

LONGEST_ANSWER = 24
"""Tokens of an answer that a causal model learns, the end token included."""

IGNORED = -100
"""The label that Hugging Face losses leave out."""


@dataclass(frozen=True)
class Example:
    """One triple as token ids; ``answer_id`` numbers its distinct answer, and ``answer`` is ``IGNORED`` where it is a gist."""

    prompt: list[int]
    answer: list[int]
    answer_id: int

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Step(TypedDict):
    """The tensors of one step: (b, t) inputs, (b, a) labels, and where in each row the answer states stand, (b, a)."""

    input_ids: Tensor
    attention_mask: Tensor
    answer_at: Tensor
    labels: Tensor
    answer_ids: Tensor


class ExampleMaker:
    """Turns triples into examples for one tokenizer and kind of model.

    Args:
        tokenizer: The model's.
        kind: ``"masked"`` or ``"causal"``.
        max_length: Longest prompt.
        masks: Answer positions of a masked model.
        stopwords: Dropped from answers before they are learnt.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        kind: Kind,
        *,
        max_length: int,
        masks: int,
        stopwords: Iterable[str],
    ) -> None:
        self._tokenizer = tokenizer
        self._masked = kind == "masked"
        self._masks = masks
        self._stopwords = frozenset(stopwords)
        prefix, suffix = special_tokens(tokenizer, kind, masks)
        template = PromptTemplate(INBEDDER)
        self._prompts = PromptTokenizer(tokenizer, template, max_length=max_length, prefix=prefix, suffix=suffix)

    def make(self, triples: Sequence[QATriple]) -> tuple[list[Example], list[str]]:
        """Return the examples in order, and the distinct answers their ``answer_id`` refers to."""
        prompts, _ = self._prompts.encode([t.paragraph for t in triples], [t.question for t in triples])
        numbers: dict[str, int] = {}
        ids = [numbers.setdefault(triple.answer, len(numbers)) for triple in triples]
        spoken = {
            i: self._answer_tokens(triple.answer) for triple, i in zip(triples, ids, strict=True) if not triple.is_gist
        }
        unspoken = [IGNORED] * (self._masks if self._masked else 1)
        examples = [
            Example(prompt, unspoken if triple.is_gist else spoken[i], i)
            for triple, prompt, i in zip(triples, prompts, ids, strict=True)
        ]
        return examples, list(numbers)

    def _answer_tokens(self, answer: str) -> list[int]:
        text = without_stopwords(answer, self._stopwords)
        if self._masked:
            end = self._tokenizer.sep_token_id
            return (self._tokens(text) + [end] * self._masks)[: self._masks]
        # As it goes on inside a line: tokenizers spell a word at the start of a text in another way.
        tokens = self._tokens(f"{CUE} {text}")[len(self._tokens(CUE)) :]
        return [*tokens[: LONGEST_ANSWER - 1], self._tokenizer.eos_token_id]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def collate_masked(examples: Sequence[Example], pad: int) -> Step:
    """Right padding; the answers stand at the masks, just before the final ``[SEP]``."""
    longest = max(len(example.prompt) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        ids[row, : len(example.prompt)] = torch.tensor(example.prompt)
        mask[row, : len(example.prompt)] = 1
    ends = mask.sum(dim=1, keepdim=True)
    labels = torch.tensor([example.answer for example in examples])
    width = labels.shape[1]
    at = ends - 1 - width + torch.arange(width)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "answer_at": at,
        "labels": labels,
        "answer_ids": torch.tensor([example.answer_id for example in examples]),
    }


def collate_causal(examples: Sequence[Example], pad: int) -> Step:
    """Left padding of prompt and answer; position i of the answer is predicted by the state before it."""
    longest = max(len(example) for example in examples)
    width = max(len(example.answer) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(examples), width), IGNORED)
    at = torch.zeros((len(examples), width), dtype=torch.long)
    for row, example in enumerate(examples):
        # What is not learnt is not read either.
        tokens = torch.tensor(example.prompt + [pad if token == IGNORED else token for token in example.answer])
        ids[row, longest - len(tokens) :] = tokens
        mask[row, longest - len(tokens) :] = 1
        count = len(example.answer)
        labels[row, :count] = torch.tensor(example.answer)
        at[row, :count] = longest - count - 1 + torch.arange(count)
        at[row, count:] = longest - 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "answer_at": at,
        "labels": labels,
        "answer_ids": torch.tensor([example.answer_id for example in examples]),
    }
