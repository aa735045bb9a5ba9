"""Task + examples + text -> the string the decoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index_instruct.errors import ConfigurationError

Example = tuple[str, str]
"""A query and the passage that answers it, for showing."""


@dataclass(frozen=True)
class InContextTemplate:
    """How a query is written down; passages are read as they are.

    Attributes:
        query: Pattern with ``{task}`` and ``{query}``, of examples and of the query itself.
        example: What follows an example's query, with ``{passage}``.
        cue: What follows the query itself; its last token, or the end token, is read.
        separator: Between examples, and before the query.
        adds_eos: Whether the tokenizer's end token closes every text, if there is one.
    """

    query: str
    example: str
    cue: str
    separator: str = "\n\n"
    adds_eos: bool = True

    def __post_init__(self) -> None:
        for pattern, slots in ((self.query, ("{task}", "{query}")), (self.example, ("{passage}",))):
            if any(pattern.count(slot) != 1 for slot in slots):
                raise ConfigurationError(f"template: expected {' and '.join(slots)} once each, found {pattern!r}")

    def head(self, task: str, examples: Sequence[Example]) -> str:
        """Return everything before the query's own text."""
        before, _ = self._around(task)
        shown = (self.show(task, example) + self.separator for example in examples)
        return "".join(shown) + before

    def show(self, task: str, example: Example) -> str:
        """Return one example as it stands in the prompt."""
        before, after = self._around(task)
        query, passage = example
        start, end = self.example.split("{passage}")
        return f"{before}{query}{after}{start}{passage}{end}"

    def tail(self, task: str) -> str:
        """Return everything after the query's own text."""
        return self._around(task)[1] + self.cue

    def _around(self, task: str) -> tuple[str, str]:
        # Split before filling: braces in a task are only text.
        before, after = self.query.split("{query}")
        return before.replace("{task}", task), after.replace("{task}", task)


LG_ANNA = InContextTemplate("Instruct: {task}\nQuery: {query}", "\nResponse: {passage}", "\nResponse:")
"""The order the report describes (examples, Instruct, Query), in the words of its likely parent."""

BGE_EN_ICL = InContextTemplate("<instruct>{task}\n<query>{query}", "\n<response>{passage}", "\n<response>")
"""For ``BAAI/bge-en-icl`` (arXiv 2409.15700)."""

PLAIN = InContextTemplate("Instruct: {task}\nQuery: {query}", "\nPassage: {passage}", "")
"""For models of the E5-mistral and Qwen3-Embedding kind, which know no answer cue."""

BARE = InContextTemplate("{task}{query}", " {passage}", "")
"""The query as it is, after a task if there is one: for encoders that the recipe trains without instructions."""

TEMPLATES = {"lg-anna": LG_ANNA, "bge-en-icl": BGE_EN_ICL, "plain": PLAIN, "bare": BARE}


def find_template(name: str) -> InContextTemplate:
    """Return the template of this name.

    Raises:
        ConfigurationError: If there is none.
    """
    if name not in TEMPLATES:
        raise ConfigurationError(f"template: expected one of {', '.join(TEMPLATES)}, found {name!r}")
    return TEMPLATES[name]
