"""Retrieved nodes -> their stored vectors, in node order.

No LlamaIndex retriever hit carries its vector, so this is the one place that asks a store for them. The ways are tried in
this order: ``node.embedding``; one ``retrieve`` call by id on Qdrant; ``get_nodes``; ``get``; encoding again, if allowed.
Rows that cannot be had are NaN: the caller decides what that means.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

Vectors = dict[str, Sequence[float]]


def stored_vectors(
    nodes: Sequence[BaseNode],
    vector_store: BasePydanticVectorStore | None = None,
    *,
    embed_model: BaseEmbedding | None = None,
) -> npt.NDArray[np.float32]:
    """Return the stored vectors of nodes, row i for node i.

    Args:
        nodes: Retrieved nodes, n of them; repeated ids are fetched once.
        vector_store: The store they came from, if any.
        embed_model: Given only when nodes without a stored vector may be encoded again.

    Returns:
        Shape (n, d), float32, as stored (Qdrant normalises under cosine distance). Rows that cannot be had are NaN; (n, 0)
        when none can.

    Raises:
        ConfigurationError: If the store has only an async client.
        DimensionMismatchError: If the vectors have different sizes.
    """
    found, missing = _carried(nodes)
    if missing and vector_store is not None:
        if _is_qdrant(vector_store):
            if vector_store.client is None:
                raise ConfigurationError(
                    "vector_store: expected a synchronous Qdrant client, found only an async one; use aretrieve() or build "
                    "QdrantVectorStore(client=QdrantClient(...), aclient=AsyncQdrantClient(...))"
                )
            points = vector_store.client.retrieve(**_qdrant_request(vector_store, missing))
            found |= _from_points(points, vector_store, missing)
        else:
            found |= _from_other_store(vector_store, missing)
    rest = [node for node in nodes if node.node_id not in found]
    if rest and embed_model is not None:
        encoded = embed_model.get_text_embedding_batch([n.get_content(MetadataMode.EMBED) for n in rest])
        found |= {node.node_id: vector for node, vector in zip(rest, encoded, strict=True)}
    return _in_order(nodes, found)


async def astored_vectors(
    nodes: Sequence[BaseNode],
    vector_store: BasePydanticVectorStore | None = None,
    *,
    embed_model: BaseEmbedding | None = None,
) -> npt.NDArray[np.float32]:
    """Asynchronous twin of ``stored_vectors``; uses Qdrant's async client."""
    found, missing = _carried(nodes)
    if missing and vector_store is not None:
        if _is_qdrant(vector_store):
            aclient = getattr(vector_store, "_aclient", None)
            if aclient is None:
                raise ConfigurationError(
                    "vector_store: expected an async Qdrant client, found none; build "
                    "QdrantVectorStore(client=QdrantClient(...), aclient=AsyncQdrantClient(...))"
                )
            points = await aclient.retrieve(**_qdrant_request(vector_store, missing))
            found |= _from_points(points, vector_store, missing)
        else:
            found |= await asyncio.to_thread(_from_other_store, vector_store, missing)
    rest = [node for node in nodes if node.node_id not in found]
    if rest and embed_model is not None:
        encoded = await embed_model.aget_text_embedding_batch([n.get_content(MetadataMode.EMBED) for n in rest])
        found |= {node.node_id: vector for node, vector in zip(rest, encoded, strict=True)}
    return _in_order(nodes, found)


def _carried(nodes: Sequence[BaseNode]) -> tuple[Vectors, list[str]]:
    found: Vectors = {node.node_id: node.embedding for node in nodes if node.embedding is not None}
    return found, list(dict.fromkeys(node.node_id for node in nodes if node.node_id not in found))


def _is_qdrant(vector_store: BasePydanticVectorStore) -> bool:
    return vector_store.class_name() == "QdrantVectorStore"


def _qdrant_request(vector_store: Any, node_ids: list[str]) -> dict[str, Any]:
    # The store learns the name of its dense vector when it first sees the collection, so it is read at call time; "" is
    # Qdrant's name for an unnamed vector, which can only be asked for with True.
    # A store with only an async client may not have seen it yet.
    unseen = vector_store.client is None and getattr(vector_store, "_legacy_vector_format", True) is None
    name = "" if unseen else vector_store.dense_vector_name
    return {
        "collection_name": vector_store.collection_name,
        "ids": [_point_id(node_id) for node_id in node_ids],
        "with_payload": False,
        "with_vectors": [name] if name else True,
    }


def _from_points(points: Sequence[Any], vector_store: Any, node_ids: list[str]) -> Vectors:
    # Qdrant may spell an id in another way than it was asked for: with dashes, in small letters, as a number.
    asked = {_point_id(node_id): node_id for node_id in node_ids}
    found: Vectors = {}
    for point in points:
        vector = point.vector
        if isinstance(vector, dict):
            vector = vector.get(vector_store.dense_vector_name, vector.get(""))
        node_id = asked.get(_point_id(str(point.id)))
        if vector is not None and node_id is not None:
            found[node_id] = vector
    return found


def _point_id(node_id: str) -> int | str:
    """Return the id as Qdrant stores it: an unsigned 64-bit number or a UUID with dashes."""
    if node_id.isascii() and node_id.isdigit() and len(node_id) <= 20:
        return int(node_id)
    try:
        return str(uuid.UUID(node_id))
    except ValueError:
        return node_id


def _from_other_store(vector_store: BasePydanticVectorStore, node_ids: list[str]) -> Vectors:
    try:
        stored = vector_store.get_nodes(node_ids=node_ids)
        return {node.node_id: node.embedding for node in stored if node.embedding is not None}
    except NotImplementedError:
        pass
    get = getattr(vector_store, "get", None)
    if get is None:
        return {}
    found: Vectors = {}
    for node_id in node_ids:
        try:
            found[node_id] = get(node_id)
        except KeyError:
            continue
    return found


def _in_order(nodes: Sequence[BaseNode], found: Vectors) -> npt.NDArray[np.float32]:
    sizes = {len(vector) for vector in found.values()}
    if len(sizes) > 1:
        raise DimensionMismatchError(f"stored vectors: expected one size, found {sorted(sizes)}")
    rows = np.full((len(nodes), sizes.pop() if sizes else 0), np.nan, dtype=np.float32)
    for row, node in zip(rows, nodes, strict=True):
        if node.node_id in found:
            row[:] = found[node.node_id]
    return rows
