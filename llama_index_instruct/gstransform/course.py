"""The course of one transformed ranking, written once for sync and async and for both doors."""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index_instruct.errors import (
    DimensionMismatchError,
    IncompatibleStoreError,
    InstructError,
    InstructWarning,
    MissingVectorsError,
    TeacherError,
)
from llama_index_instruct.gstransform.stores import StoreFacts
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.queries import checked_vector, with_embedding
from llama_index_instruct.spans import Count, span

dispatcher = get_dispatcher(__name__)
OnError = Literal["plain", "raise"]
RANKED_BY_DISTANCE = {"Euclid", "Manhattan"}
# Equal vectors get scores that differ by rounding, depending on their place in the block.
TIE_DIGITS = 6


@dataclass(frozen=True)
class DescribeStore:
    """Wanted: what is known about the store, a ``StoreFacts``."""

    stage = "describe_store"


@dataclass(frozen=True)
class Probe:
    """Wanted: name and fingerprint of the embedding model that is about to be used; None if none is."""

    query: QueryBundle
    size: int
    stage = "probe"


@dataclass(frozen=True)
class Embed:
    """Wanted: the embedding of the query."""

    query: QueryBundle
    # Whether the bundle's own embedding is of the right size, and so to be trusted.
    size: int
    stage = "embed"


@dataclass(frozen=True)
class Search:
    """Wanted: the hits of the inner retriever."""

    query: QueryBundle
    stage = "search"


@dataclass(frozen=True)
class FetchVectors:
    """Wanted: stored vectors, shape (n, d), NaN rows missing."""

    nodes: Sequence[BaseNode]
    stage = "vectors"


Step = DescribeStore | Probe | Embed | Search | FetchVectors
Ranking = Generator[Step, Any, list[NodeWithScore]]


def counts_of(step: Step, result: Any) -> dict[str, Count]:
    """Return what a step brought, for traces."""
    if isinstance(step, Search):
        return {"hits": len(result)}
    return {"nodes": len(step.nodes)} if isinstance(step, FetchVectors) else {}


class GSTransformEvent(BaseEvent):
    """LlamaIndex instrumentation event at the end of each transformed ranking; counts only, no text.

    Attributes:
        instruction: Of the transform.
        nodes: Hits scored.
        missing: Ids of the hits whose vectors could not be had.
        ms: Milliseconds of the whole.
        reason: Why the hits keep the order they came in; empty where they were ranked.
    """

    instruction: str
    nodes: int
    missing: list[str]
    ms: float
    reason: str = ""

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the event in traces."""
        return "GSTransformEvent"


@dataclass(frozen=True, eq=False)
class RankingSettings:
    """What a door was set to.

    Attributes:
        top_n: Hits returned; None = all.
        on_error: What trouble with the vectors of the hits means.
        allow_other_model: Whether another embedding model is a warning instead of an error.
        keep_retrieval_score: Whether the score before goes into the node's metadata.
        checked: Transforms already checked against store and model, by identity; belongs to the door.
    """

    top_n: int | None
    on_error: OnError
    allow_other_model: bool
    keep_retrieval_score: bool
    checked: set[int]


def rerank_course(
    hits: Sequence[NodeWithScore], query: QueryBundle, transform: GSTransform, settings: RankingSettings
) -> Ranking:
    """Ask for what it takes to rank hits by transformed cosine, and return them as new objects.

    Args:
        hits: Retrieved nodes; never written to.
        query: Its embedding is used if its size fits, else asked for.
        transform: Of the instruction.
        settings: Of the door.
    """
    start = time.perf_counter()
    yield from _check(query, transform, settings, searching=False)
    vector = _fitting_vector((yield Embed(query, transform.input_dimension)), transform)
    return (yield from _scored(list(hits), vector, transform, settings, start))


def search_course(query: QueryBundle, transform: GSTransform, settings: RankingSettings) -> Ranking:
    """Ask for what it takes to search an untouched store in the transformed geometry, and return the hits.

    Args:
        query: Its embedding, if it has one, is the vector in the geometry of the store.
        transform: Of the instruction; linear.
        settings: Of the door.
    """
    start = time.perf_counter()
    yield from _check(query, transform, settings, searching=True)
    vector = _fitting_vector((yield Embed(query, transform.input_dimension)), transform)
    hits = yield Search(with_embedding(query, transform.search_vector(vector).tolist()))
    return (yield from _scored(hits, vector, transform, settings, start))


def _check(
    query: QueryBundle, transform: GSTransform, settings: RankingSettings, *, searching: bool
) -> Generator[Step, Any, None]:
    """Check a transform against the store and the embedding model, once per door."""
    if id(transform) in settings.checked:
        return
    facts: StoreFacts = yield DescribeStore()
    transform.check_store(name=facts.name, dimension=facts.dimension, distance=facts.distance)
    if searching and facts.distance in RANKED_BY_DISTANCE:
        raise IncompatibleStoreError(
            f"{facts.name} has distance {facts.distance}; a search vector ranks by dot product, so expected Cosine or Dot"
        )
    probe = None
    if transform.fingerprint is not None:
        probe = yield Probe(query, transform.input_dimension)
        if probe is not None and not transform.matches(probe.vectors):
            message = (
                f"transform was fitted on vectors of {transform.info.embed_model or 'another model'!r}, the embedding model is "
                f"{probe.model!r}, which embeds differently; fit a transform for it, or pass allow_other_model=True"
            )
            if not settings.allow_other_model:
                raise IncompatibleStoreError(message)
            _warn(message)
    if facts.known and (transform.fingerprint is None or probe is not None):
        settings.checked.add(id(transform))


def _fitting_vector(embedding: Sequence[float], transform: GSTransform) -> npt.NDArray[np.float32]:
    vector = checked_vector(embedding)
    if len(vector) != transform.input_dimension:
        raise DimensionMismatchError(
            f"transform expects {transform.input_dimension}, the query embedding has {len(vector)}: another embedding model?"
        )
    return vector


def _scored(
    hits: list[NodeWithScore],
    vector: npt.NDArray[np.float32],
    transform: GSTransform,
    settings: RankingSettings,
    start: float,
) -> Ranking:
    query = transform.transform_query(vector)
    if not hits:
        return []
    try:
        vectors = yield FetchVectors([hit.node for hit in hits])
        usable = np.isfinite(vectors).all(axis=1) if vectors.shape[1] else np.zeros(len(hits), dtype=bool)
        missing = [hit.node.node_id for hit, ok in zip(hits, usable, strict=True) if not ok]
        if len(missing) == len(hits):
            raise MissingVectorsError(
                "expected stored vectors of the hits, found none; check vector_store=... or allow encode_missing=True",
                missing,
            )
    except Exception as error:
        if isinstance(error, MemoryError) or settings.on_error == "raise":
            raise
        # Our own messages name sizes and settings; those of others, which a bare TeacherError quotes, may hold text or keys.
        detail = f": {error}" if isinstance(error, InstructError) and type(error) is not TeacherError else ""
        reason = f"{type(error).__name__}{detail}"
        _warn(f"hits keep the order they came in, {reason}")
        _tell(transform, start, missing=[hit.node.node_id for hit in hits], reason=reason)
        return hits[: settings.top_n]
    if missing:
        _warn(f"{len(missing)} of {len(hits)} hits have no usable stored vector and go last, first {missing[0]}")
    with span("GSTransform.transform", nodes=len(hits) - len(missing), missing=len(missing)):
        scores = transform.similarity_to(query, vectors[usable])
        ranked = _ranked([hit for hit, ok in zip(hits, usable, strict=True) if ok], scores, settings)
        ranked += [_rescored(hit, None, settings) for hit, ok in zip(hits, usable, strict=True) if not ok]
    _tell(transform, start, nodes=len(hits) - len(missing), missing=missing)
    return ranked[: settings.top_n]


def _tell(transform: GSTransform, start: float, *, nodes: int = 0, missing: list[str], reason: str = "") -> None:
    dispatcher.event(
        GSTransformEvent(
            instruction=transform.info.instruction,
            nodes=nodes,
            missing=missing,
            ms=1000.0 * (time.perf_counter() - start),
            reason=reason,
        )
    )


def _ranked(
    hits: Sequence[NodeWithScore], scores: npt.NDArray[np.float32], settings: RankingSettings
) -> list[NodeWithScore]:
    # A stable sort: what ties stays in the order it came in.
    order = np.argsort(-np.round(scores, TIE_DIGITS), kind="stable")
    if settings.top_n is not None:
        order = order[: settings.top_n]
    return [_rescored(hits[row], float(scores[row]), settings) for row in order]


def _rescored(hit: NodeWithScore, score: float | None, settings: RankingSettings) -> NodeWithScore:
    node = hit.node
    if settings.keep_retrieval_score:
        node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": hit.score}})
    return NodeWithScore(node=node, score=score)


def _warn(message: str) -> None:
    warnings.warn(f"GSTransform: {message}", InstructWarning, stacklevel=2)
