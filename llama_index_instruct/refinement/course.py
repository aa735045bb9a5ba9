"""The course of one refined retrieve, without input or output of its own.

It asks for what it needs by yielding steps; the retriever's synchronous and asynchronous drivers carry them out. So there is
one course, and the two ways cannot drift apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index_instruct.errors import (
    InstructError,
    InstructWarning,
    MissingVectorsError,
    RefinementError,
    TeacherError,
)
from llama_index_instruct.queries import checked_vector, with_embedding
from llama_index_instruct.refinement.candidates import Candidates, usable_candidates
from llama_index_instruct.refinement.course_steps import AskTeacher, Embed, FetchVectors, ReadWords, Search, Step
from llama_index_instruct.refinement.rounds import RefinementRounds
from llama_index_instruct.refinement.selection import SelectionSettings
from llama_index_instruct.refinement.settings import Method
from llama_index_instruct.refinement.trace import JudgedNode, RefinementTrace, Stopwatch
from llama_index_instruct.refinement.words import WordRows
from llama_index_instruct.spans import span
from llama_index_instruct.teacher.calls import FATAL
from llama_index_instruct.teacher.judge import Judgements, seconds_from_now
from llama_index_instruct.teacher.usage import Usage

Course = Generator[Step, Any, RefinementTrace]


@dataclass(frozen=True)
class CourseSettings:
    """What the retriever was set to; see there."""

    judged: int
    rounds: int
    method: Method
    method_settings: dict[str, Any]
    selection: SelectionSettings
    lexical: bool
    candidates: int
    judge_deadline: float | None
    pin_judged: bool
    on_error: Literal["plain", "raise"]
    # How many hits the plain retriever returns; None = all it finds.
    top_k: int | None


def refinement_course(query: QueryBundle, settings: CourseSettings) -> Course:
    """Ask for what one refined retrieve needs, step by step, and return its trace.

    Args:
        query: With text; its embedding is asked for.
        settings: Of the retriever.
    """
    watch = Stopwatch()
    with watch.stage("embed"):
        embedding = yield Embed(query)
    vector = checked_vector(embedding)
    # The first search gets the very numbers the plain retriever would send, so that its scores are the same to the bit.
    query = with_embedding(query, list(embedding))
    with watch.stage("search"):
        hits = yield Search(query, wide=True)
    plain = hits if settings.top_k is None else hits[: settings.top_k]
    state = _State(query, vector, plain, watch)
    if not hits:
        return state.unchanged("the first search found nothing")
    try:
        return (yield from _refined(state, hits, settings))
    except (*FATAL, RefinementError):
        raise
    except Exception as error:
        # Our own messages name sizes and settings; those of others, which a bare TeacherError quotes, may hold text or keys.
        detail = f": {error}" if isinstance(error, InstructError) and type(error) is not TeacherError else ""
        return _given_up(state, settings, f"{type(error).__name__} in the refinement stage{detail}", error)


def _refined(state: _State, hits: list[NodeWithScore], settings: CourseSettings) -> Course:
    # A retriever may bring more hits than are worth fetching vectors for.
    hits = hits[: settings.candidates]
    with state.watch.stage("vectors"):
        vectors = yield FetchVectors([hit.node for hit in hits])
        pool = usable_candidates([hit.node for hit in hits], vectors)
    state.pool = pool
    if pool.unusable:
        state.trouble = f"stored vectors missing or not finite: {', '.join(pool.unusable[:5])}"
    if len(pool.nodes) == 0:
        missing = MissingVectorsError(
            "expected stored vectors of the hits, found none; check vector_store=... or allow encode_missing=True",
            pool.unusable,
        )
        return _given_up(state, settings, "no hit has a usable stored vector", missing)
    words = (yield from _words(state, pool, settings)) if settings.lexical else None
    with state.watch.stage("solve"):
        rounds = RefinementRounds(
            state.vector,
            pool.vectors,
            judged=settings.judged,
            rounds=settings.rounds,
            selection=settings.selection,
            words=words,
        )
    yield from _judge_rounds(state, pool, rounds, settings)
    with state.watch.stage("solve"), span("RefinementRetriever.solve", judgements=len(state.judgements)) as counts:
        refined = rounds.refine(settings.method, **settings.method_settings)
        counts |= {"method": settings.method, "moved": refined.moved, "angle": refined.angle}
    state.foretell(refined.foretold)
    if not refined.moved:
        if state.teacher_trouble and state.mostly_unjudged:
            return _given_up(state, settings, state.teacher_trouble, None)
        if pool.unusable:
            _warn(state.trouble or "")
        return state.unchanged(refined.reason)
    # In float32 the norm of a tiny vector would be zero.
    length = np.linalg.norm(state.vector.astype(np.float64))
    moved = checked_vector((refined.vector * length).tolist())
    with state.watch.stage("search_again"):
        nodes = yield Search(with_embedding(state.query, moved.tolist()), wide=False)
    if settings.pin_judged:
        nodes = _pinned(nodes, state, refined.vector)
    if pool.unusable:
        _warn(state.trouble or "")
    return state.changed(nodes, moved, refined.angle)


def _words(state: _State, pool: Candidates, settings: CourseSettings) -> Generator[Step, Any, WordRows | None]:
    try:
        with state.watch.stage("words"):
            words: WordRows | None = yield ReadWords(state.query.query_str, pool.nodes)
            return words
    except FATAL:
        raise
    except Exception as error:
        reason = f"{type(error).__name__} while reading the words of the hits"
        if settings.on_error == "raise":
            raise RefinementError(f"query refinement failed: {reason}; lexical=False reads none") from error
        # The vectors are enough to go on with.
        _warn(f"{reason}; going by their vectors alone")
        state.trouble = state.trouble or reason
        return None


def _judge_rounds(
    state: _State, pool: Candidates, rounds: RefinementRounds, settings: CourseSettings
) -> Generator[Step, Any, None]:
    deadline = seconds_from_now(settings.judge_deadline)
    for number in range(1, settings.rounds + 1):
        with state.watch.stage("solve"), span("RefinementRetriever.select", round=number) as counts:
            rows = rounds.next_rows()
            counts["selected"] = len(rows)
        if len(rows) == 0:
            return
        nodes = [pool.nodes[row] for row in rows]
        with state.watch.stage("judge"):
            said: Judgements = yield AskTeacher(state.query.query_str, nodes, deadline)
        rounds.record(rows, said.relevance)
        state.record(nodes, said, number)
        if np.isnan(said.relevance).all():
            return


def _given_up(state: _State, settings: CourseSettings, reason: str, cause: Exception | None) -> RefinementTrace:
    if settings.on_error == "raise":
        raise RefinementError(
            f"query refinement failed: {reason}; on_error='plain' gives the plain ranking instead"
        ) from cause
    _warn(f"{reason}; on_error='raise' makes this an error")
    return state.unchanged(reason, trouble=reason)


class _State:
    """What is known so far about one query; lives as long as its course."""

    def __init__(
        self,
        query: QueryBundle,
        vector: npt.NDArray[np.float32],
        plain: list[NodeWithScore],
        watch: Stopwatch,
    ) -> None:
        self.query = query
        self.vector = vector
        self.plain = plain
        self.watch = watch
        self.pool: Candidates | None = None
        self.judgements: list[JudgedNode] = []
        self.usage = Usage()
        self.trouble: str | None = None
        self.teacher_trouble: str | None = None

    @property
    def mostly_unjudged(self) -> bool:
        """Whether the teacher failed on at least half of what it was asked."""
        missing = sum(1 for judged in self.judgements if np.isnan(judged.relevance))
        return 2 * missing >= len(self.judgements)

    def record(self, nodes: Sequence[BaseNode], said: Judgements, number: int) -> None:
        self.judgements += [
            JudgedNode(node.node_id, float(value), source, number)
            for node, value, source in zip(nodes, said.relevance, said.sources, strict=True)
        ]
        self.usage = self.usage + said.usage
        self.teacher_trouble = self.teacher_trouble or said.trouble
        self.trouble = self.trouble or said.trouble

    def foretell(self, logits: npt.NDArray[np.float64]) -> None:
        self.judgements = [
            judged if np.isnan(logit) else replace(judged, foretold=float(logit))
            for judged, logit in zip(self.judgements, logits, strict=True)
        ]

    def changed(self, nodes: list[NodeWithScore], vector: npt.NDArray[np.float32], angle: float) -> RefinementTrace:
        return self._trace(nodes, vector, angle, changed=True, reason="")

    def unchanged(self, reason: str, *, trouble: str | None = None) -> RefinementTrace:
        self.trouble = trouble or self.trouble
        return self._trace(self.plain, self.vector, 0.0, changed=False, reason=reason)

    def _trace(
        self,
        nodes: list[NodeWithScore],
        vector: npt.NDArray[np.float32],
        angle: float,
        *,
        changed: bool,
        reason: str,
    ) -> RefinementTrace:
        return RefinementTrace(
            query=self.query.query_str,
            nodes=nodes,
            plain_nodes=self.plain,
            judgements=tuple(self.judgements),
            query_vector=self.vector,
            refined_vector=vector,
            angle=angle,
            changed=changed,
            reason=reason,
            trouble=self.trouble,
            usage=self.usage,
            ms=dict(self.watch.ms),
        )


def _pinned(nodes: list[NodeWithScore], state: _State, refined: npt.NDArray[np.float32]) -> list[NodeWithScore]:
    """Return the judged-relevant nodes first, then the others, each group by score and as many as before."""
    assert state.pool is not None
    relevant = {judged.node_id for judged in state.judgements if judged.relevance >= 0.5}
    scored = {hit.node.node_id: hit for hit in nodes}
    for node, vector in zip(state.pool.nodes, state.pool.vectors, strict=True):
        if node.node_id in relevant and node.node_id not in scored:
            score = float(vector @ refined / np.linalg.norm(vector))
            scored[node.node_id] = NodeWithScore(node=node, score=score)
    ranked = sorted(scored.values(), key=lambda hit: (hit.node.node_id not in relevant, -(hit.score or 0.0)))
    return ranked[: len(nodes)]


def _warn(reason: str) -> None:
    warnings.warn(f"query refinement: {reason}", InstructWarning, stacklevel=2)
