"""The three doors over the shop, and how each is asked, synchronously and asynchronously."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from fakes import WordEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_instruct import (
    GSTransformPostprocessor,
    GSTransformRetriever,
    RefinementRetriever,
    RefinementTrace,
)

Way = Literal["sync", "async"]
WAYS: tuple[Way, ...] = ("sync", "async")
DOORS = ("refining", "searching", "reranking")
QUERY = "order refund printer"
TOP_K = 10


def furious(query: str, passages: list[str]) -> list[float]:
    return [0.9 if "furious" in passage else 0.1 for passage in passages]


def plain(index: Any, top_k: int = TOP_K) -> Any:
    return index.as_retriever(similarity_top_k=top_k)


def refining(index: Any, top_k: int = TOP_K, **settings: Any) -> RefinementRetriever:
    teacher = {} if {"llm", "judge"} & set(settings) else {"judge": furious}
    return RefinementRetriever(plain(index, top_k), **teacher, **settings)


def searching(index: Any, transform: Any, top_k: int = TOP_K, **settings: Any) -> GSTransformRetriever:
    return GSTransformRetriever(plain(index, top_k), transform=transform, **settings)


def reranking(index: Any, transform: Any, top_k: int = TOP_K, **settings: Any) -> GSTransformPostprocessor:
    given = {"vector_store": index.vector_store, "embed_model": WordEmbedding(), **settings}
    return GSTransformPostprocessor(transform, top_n=top_k, **given)


def door_of(name: str, index: Any, transform: Any, **settings: Any) -> Any:
    if name == "refining":
        return refining(index, **settings)
    return (searching if name == "searching" else reranking)(index, transform, **settings)


async def ask(door: Any, way: Way, *, query: Any = QUERY, hits: Any = ()) -> Any:
    """What a door says: a trace for refinement, a list of hits for the others."""
    method, arguments = "retrieve", [query]
    if isinstance(door, RefinementRetriever):
        method = "refine"
    elif isinstance(door, BaseNodePostprocessor):
        bundle = QueryBundle(query) if isinstance(query, str) else query
        method, arguments = "postprocess_nodes", [list(hits), bundle]
    said = getattr(door, method if way == "sync" else f"a{method}")(*arguments)
    return await said if inspect.isawaitable(said) else said


def hits_of(said: RefinementTrace | list[NodeWithScore]) -> list[NodeWithScore]:
    return said.nodes if isinstance(said, RefinementTrace) else said
