"""What happened to one query: the record that ``RefinementRetriever.refine`` returns."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.schema import NodeWithScore

from llama_index_instruct.teacher.usage import Usage


@dataclass(frozen=True)
class JudgedNode:
    """One judgement.

    Attributes:
        node_id: Which node.
        relevance: In [0, 1]; NaN = no judgement.
        source: ``"logprobs"``, ``"text"``, ``"score"`` or ``"cache"``; else why there is no judgement.
        round: In which round, from 1.
        foretold: The logit of a yes as the other answers foretell it; NaN where they do not.
    """

    node_id: str
    relevance: float
    source: str
    round: int
    # The same judgements foretell the same but for the last digit, which may differ from run to run.
    foretold: float = field(default=math.nan, compare=False)


@dataclass(frozen=True)
class RefinementTrace:
    """What happened to one query.

    Attributes:
        query: Its text.
        nodes: The result: the refined ranking, or the plain one if nothing was changed.
        plain_nodes: The ranking before.
        judgements: In the order they were asked for.
        query_vector: Shape (d,), float32, before.
        refined_vector: Shape (d,), float32, with the norm of ``query_vector``; the same vector if nothing was changed.
        angle: Between the two, in radians.
        changed: Whether the query was moved.
        reason: Why nothing was changed; empty if something was.
        trouble: What went wrong on the way, if anything; it may have been survived.
        usage: Calls, tokens, failures.
        ms: Milliseconds by stage: embed, search, vectors, words, judge, solve, search_again.
    """

    query: str
    nodes: list[NodeWithScore]
    plain_nodes: list[NodeWithScore]
    judgements: tuple[JudgedNode, ...]
    query_vector: npt.NDArray[np.float32]
    refined_vector: npt.NDArray[np.float32]
    angle: float
    changed: bool
    reason: str
    trouble: str | None
    usage: Usage
    ms: dict[str, float]

    @property
    def calls(self) -> int:
        """Return the number of teacher calls."""
        return self.usage.calls

    @property
    def tokens(self) -> int:
        """Return the tokens the provider reported."""
        return self.usage.tokens

    @property
    def overlap(self) -> float:
        """Return the share of the plain ranking that is still in the result, in [0, 1]."""
        before = {hit.node.node_id for hit in self.plain_nodes}
        after = {hit.node.node_id for hit in self.nodes}
        return len(before & after) / max(len(before), 1)


class RefinementEvent(BaseEvent):
    """LlamaIndex instrumentation event at the end of each refined retrieve; counts only, no text.

    Attributes:
        changed: Whether the query was moved.
        reason: Why not.
        angle: In radians.
        judgements: How many passages were judged.
        calls: Teacher calls.
        tokens: As reported.
        ms: Milliseconds by stage.
    """

    changed: bool
    reason: str
    angle: float
    judgements: int
    calls: int
    tokens: int
    ms: dict[str, float]

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the event in traces."""
        return "RefinementEvent"

    @classmethod
    def of(cls, trace: RefinementTrace) -> RefinementEvent:
        """Return the event that tells of a trace."""
        return cls(
            changed=trace.changed,
            reason=trace.reason,
            angle=trace.angle,
            judgements=len(trace.judgements),
            calls=trace.calls,
            tokens=trace.tokens,
            ms=trace.ms,
        )


@dataclass
class Stopwatch:
    """Adds up milliseconds by stage."""

    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + 1000.0 * (time.perf_counter() - start)
