"""Queries and passages -> token ids: examples dropped whole, the query never cut by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_index_instruct.embedders.positions import surroundings
from llama_index_instruct.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llama_index_instruct.incontext.template import Example, InContextTemplate

PROBES = ("a", "Z", "7", "(", "\u00e9", "", " x", "\n")
"""Queries that share no beginning: what their prompts begin with in common belongs to the head."""


SHORTEST_QUERY = 16
SEAM_TOKENS = 2
"""By which a query can grow where it meets the words around it."""


@dataclass(frozen=True)
class TaskHead:
    """The beginning shared by all queries of a task.

    Attributes:
        task: What is asked for.
        examples: Those that fit the budget.
        shared: Token ids that open the prompts of queries; of nearly all, as a tokenizer may join the seam otherwise.
    """

    task: str
    examples: tuple[Example, ...]
    shared: tuple[int, ...]


class InContextTokenizer:
    """Writes and tokenises queries and passages.

    Args:
        tokenizer: The decoder's.
        template: How a query is written down.
        window: Most tokens the model reads; where it is the tighter limit, a query keeps ``SHORTEST_QUERY`` of them.
        query_tokens: Most tokens of a query's own text.
        passage_tokens: Most tokens of a passage.
        example_tokens: Most tokens of everything before the query's text; later examples that do not fit are left out whole.
        on_cut: Told how many of how many texts lost their end, if any did.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: InContextTemplate,
        *,
        window: int,
        query_tokens: int,
        passage_tokens: int,
        example_tokens: int,
        on_cut: Callable[[int, int], None] | None = None,
    ) -> None:
        self._on_cut = on_cut
        self._tokenizer = tokenizer
        self._template = template
        self._window = window
        self._query_tokens = query_tokens
        # Names of special tokens inside a text are plain characters, but for those the template itself is written in.
        written = template.query + template.example + template.cue
        self._split = not any(name in written for name in tokenizer.get_added_vocab())
        self._prefix, self._end = surroundings(tokenizer)
        if not template.adds_eos:
            self._end = []
        elif not self._end and tokenizer.eos_token_id is not None:
            self._end = [int(tokenizer.eos_token_id)]
        around = len(self._prefix) + len(self._end)
        tail = len(self._ids(template.tail("")))
        self._passage_tokens = min(passage_tokens, window - around)
        self._example_tokens = min(example_tokens, window - around - tail - SHORTEST_QUERY - SEAM_TOKENS)
        # Something must be read even of nothing, by models that neither open nor close a text.
        self._nothing = [int(tokenizer.pad_token_id or 0)]

    def head(self, task: str, examples: Sequence[Example]) -> TaskHead:
        """Return the beginning of a task, with as many of the first examples as fit.

        Raises:
            ConfigurationError: If the task alone does not fit.
        """
        kept = self.fitting(task, examples)
        prompts = [self._prompt(task, kept, probe) for probe in PROBES]
        return TaskHead(task, kept, tuple(_common_beginning(prompts)))

    def fitting(self, task: str, examples: Sequence[Example]) -> tuple[Example, ...]:
        """Return as many of the first examples as fit.

        Raises:
            ConfigurationError: If the task alone does not fit.
        """
        kept = list(examples)
        while len(self._prefix) + len(self._ids(self._template.head(task, kept))) > self._example_tokens:
            if not kept:
                raise ConfigurationError(f"task: expected at most {self._example_tokens} tokens, found {task[:80]!r}")
            kept.pop()
        return tuple(kept)

    def queries(self, texts: Sequence[str], head: TaskHead) -> list[list[int]]:
        """Return the token ids of whole prompts."""
        around = len(self._prompt(head.task, head.examples, ""))
        most = min(self._query_tokens, self._window - around - SEAM_TOKENS)
        return [self._prompt(head.task, head.examples, text) for text in self._cut(texts, most)]

    def passages(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of passages: no task, no examples."""
        return [self._closed(text) for text in self._cut(texts, self._passage_tokens)]

    def _prompt(self, task: str, examples: Sequence[Example], query: str) -> list[int]:
        return self._closed(self._template.head(task, examples) + query + self._template.tail(task))

    def _closed(self, text: str) -> list[int]:
        return [*self._prefix, *self._ids(text), *self._end] or self._nothing

    def _ids(self, text: str) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=self._split, verbose=False)
        return list(encoded["input_ids"])

    def _cut(self, texts: Sequence[str], most: int) -> list[str]:
        if not texts:
            return []
        read = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=self._split,
            return_offsets_mapping=True,
            verbose=False,
        )
        ends = [_cut_at(places, most) for places in read["offset_mapping"]]
        lost = sum(end is not None for end in ends)
        if lost and self._on_cut is not None:
            self._on_cut(lost, len(texts))
        return [text[:end] for text, end in zip(texts, ends, strict=True)]


def _cut_at(places: Sequence[tuple[int, int]], most: int) -> int | None:
    """Return where a text of these token places is cut, so that no character spelt by several tokens is halved."""
    if len(places) <= most:
        return None
    while most > 0 and places[most][0] < places[most - 1][1]:
        most -= 1
    return places[most - 1][1] if most else 0


def _common_beginning(rows: Sequence[Sequence[int]]) -> list[int]:
    shared: list[int] = []
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
