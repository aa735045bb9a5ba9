"""What the course of a refinement needs from outside: the steps that its drivers carry out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode, QueryBundle

from llama_index_instruct.refinement.words import WordRows, read_words
from llama_index_instruct.spans import Count


@dataclass(frozen=True)
class Embed:
    """Embed the query -> list of floats."""

    query: QueryBundle
    stage = "embed"


@dataclass(frozen=True)
class Search:
    """Search the store -> hits; wide = fetch candidates too."""

    query: QueryBundle
    wide: bool

    @property
    def stage(self) -> str:
        """Return which search it is."""
        return "search" if self.wide else "search_again"


@dataclass(frozen=True)
class FetchVectors:
    """Fetch the stored vectors of nodes -> (n, d)."""

    nodes: Sequence[BaseNode]
    stage = "vectors"


@dataclass(frozen=True)
class AskTeacher:
    """Let the teacher judge nodes -> Judgements."""

    query: str
    nodes: Sequence[BaseNode]
    deadline: float | None
    stage = "judge"


@dataclass(frozen=True)
class ReadWords:
    """Read the words of the query and of nodes -> WordRows, or None where no two nodes share a word."""

    query: str
    nodes: Sequence[BaseNode]
    stage = "words"

    def perform(self) -> WordRows | None:
        """Return them; milliseconds for hundreds of short texts, tens of milliseconds for long ones."""
        return read_words(self.query, [node.get_content(MetadataMode.EMBED) for node in self.nodes])


Step = Embed | Search | FetchVectors | ReadWords | AskTeacher


def counts_of(step: Step, result: Any) -> dict[str, Count]:
    """Return what a step brought, for traces."""
    if isinstance(step, Search):
        return {"hits": len(result)}
    if isinstance(step, FetchVectors):
        return {"nodes": len(step.nodes), "found": int(np.isfinite(result).all(axis=1).sum()) if result.size else 0}
    return {"passages": len(step.nodes)} if isinstance(step, AskTeacher | ReadWords) else {}
