"""Queries and passages -> token ids: examples dropped whole, the query never cut by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llama_index_instruct.incontext.template import Example, InContextTemplate

PROBES = ("a", "Z", "7", "(", "\u00e9")
"""Queries that share no beginning: what their prompts begin with in common belongs to the head."""


@dataclass(frozen=True)
class TaskHead:
    """The beginning shared by all queries of a task.

    Attributes:
        task: What is asked for.
        examples: Those that fit the budget.
        shared: Token ids that open the prompt of every query.
    """

    task: str
    examples: tuple[Example, ...]
    shared: tuple[int, ...]


class InContextTokenizer:
    """Writes and tokenises queries and passages.

    Args:
        tokenizer: The decoder's.
        template: How a query is written down.
        query_tokens: Most tokens of a query's own text.
        passage_tokens: Most tokens of a passage.
        example_tokens: Most tokens of everything before the query's text; later examples that do not fit are left out whole.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: InContextTemplate,
        *,
        query_tokens: int,
        passage_tokens: int,
        example_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._query_tokens = query_tokens
        self._passage_tokens = passage_tokens
        self._example_tokens = example_tokens
        end = tokenizer.eos_token_id
        self._end = [end] if template.adds_eos and end is not None else []

    def head(self, task: str, examples: Sequence[Example]) -> TaskHead:
        """Return the beginning of a task, with as many of the first examples as fit.

        Raises:
            ConfigurationError: If the task alone does not fit.
        """
        kept = list(examples)
        while len(self._ids(self._template.head(task, kept))) > self._example_tokens:
            if not kept:
                raise ConfigurationError(f"task: expected at most {self._example_tokens} tokens, found {task[:80]!r}")
            kept.pop()
        prompts = [self._prompt(task, kept, probe) for probe in PROBES]
        return TaskHead(task, tuple(kept), tuple(_common_beginning(prompts)))

    def queries(self, texts: Sequence[str], head: TaskHead) -> list[list[int]]:
        """Return the token ids of whole prompts."""
        return [self._prompt(head.task, head.examples, text) for text in self._cut(texts, self._query_tokens)]

    def passages(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of passages: no task, no examples."""
        return [self._ids(text) + self._end for text in self._cut(texts, self._passage_tokens)]

    def _prompt(self, task: str, examples: Sequence[Example], query: str) -> list[int]:
        return self._ids(self._template.head(task, examples) + query + self._template.tail(task)) + self._end

    def _ids(self, text: str) -> list[int]:
        ids = list(self._tokenizer(text, verbose=False)["input_ids"])
        # Some tokenizers close every text themselves; the end token is ours to add, once.
        while ids and self._end and ids[-1] == self._end[0]:
            ids.pop()
        return ids

    def _cut(self, texts: Sequence[str], most: int) -> list[str]:
        if not texts:
            return []
        read = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = read["offset_mapping"]
        return [
            text if len(places) <= most else text[: places[most - 1][1]]
            for text, places in zip(texts, offsets, strict=True)
        ]


def _common_beginning(rows: Sequence[Sequence[int]]) -> list[int]:
    shared: list[int] = []
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
