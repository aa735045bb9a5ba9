"""A sample of texts with their stored vectors: from nodes, from a LlamaIndex vector store, from a Qdrant collection."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node

from llama_index_instruct.errors import ConfigurationError, MissingVectorsError
from llama_index_instruct.gstransform.stores import dense_vector, dense_vector_params, describe_store
from llama_index_instruct.vectors import stored_vectors

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.vector_stores.types import BasePydanticVectorStore
    from qdrant_client import QdrantClient

# Ids per page of a scroll, and points per retrieve: vectors of 4,096 numbers make 10 MB of JSON of the latter.
ID_PAGE = 10_000
FETCH_PAGE = 256


@dataclass(frozen=True, eq=False)
class QdrantSource:
    """A Qdrant collection, whoever filled it.

    Attributes:
        client: Synchronous client.
        collection: Its name.
        vector_name: Of the dense vector; "" = the unnamed or the only one.
        text_key: Payload field with the text, where LlamaIndex did not write the payload.
    """

    client: QdrantClient
    collection: str
    vector_name: str = ""
    text_key: str = "text"


@dataclass(frozen=True, eq=False)
class Sample:
    """Texts to be labelled, and further vectors of the collection.

    Attributes:
        nodes: n nodes.
        vectors: Theirs, as stored, shape (n, d), float32.
        unlabelled: Further vectors, shape (m, d).
        distance: Qdrant's name of the collection's distance; empty = not known.
    """

    nodes: list[BaseNode]
    vectors: npt.NDArray[np.float32]
    unlabelled: npt.NDArray[np.float32]
    distance: str = ""


def sample_nodes(
    nodes: Sequence[BaseNode],
    size: int,
    unlabelled: int,
    *,
    seed: int,
    vector_store: BasePydanticVectorStore | None = None,
    embed_model: BaseEmbedding | None = None,
) -> Sample:
    """Return a sample of nodes, with vectors they carry, or that the store has, or (if a model is given) encoded now.

    Args:
        nodes: To sample from.
        size: Nodes to be labelled.
        unlabelled: Further vectors.
        seed: The same seed picks the same nodes, in whatever order they come.
        vector_store: Where their vectors are stored.
        embed_model: Given only when nodes without a stored vector may be encoded.

    Raises:
        MissingVectorsError: If the vectors of some nodes cannot be had.
    """
    by_id = {node.node_id: node for node in nodes}
    picked = [by_id[name] for name in _pick(iter(by_id), size + unlabelled, seed)]
    vectors = stored_vectors(picked, vector_store, embed_model=embed_model)
    missing = [
        node.node_id
        for node, row in zip(picked, vectors, strict=True)
        if not vectors.shape[1] or not np.isfinite(row).all()
    ]
    if missing:
        raise MissingVectorsError(
            f"expected stored vectors of {len(picked)} nodes, {len(missing)} have none, first {missing[0]}; give "
            "vector_store=..., or encode_missing=True with embed_model=...",
            missing,
        )
    distance = describe_store(vector_store).distance or ""
    return Sample(picked[:size], vectors[:size], vectors[size:], distance)


def sample_collection(source: QdrantSource, size: int, unlabelled: int, *, seed: int) -> Sample:
    """Return a sample of a collection: texts and vectors as stored; nothing is encoded.

    All ids are read once, without payload; which are picked depends on seed and id only, so that a resumed run picks the same.

    Args:
        source: The collection.
        size: Points to be labelled; those without text are left out.
        unlabelled: Further vectors.
        seed: See above.

    Raises:
        ConfigurationError: If the collection has no such vector, or no text under ``text_key``.
    """
    name, params = _dense(source)
    with_vectors: Any = [name] if name else True
    picked = _pick(_ids(source), size + unlabelled, seed)
    nodes: list[BaseNode] = []
    labelled: list[Any] = []
    rest: list[Any] = []
    for start in range(0, len(picked), FETCH_PAGE):
        page = picked[start : start + FETCH_PAGE]
        needs_text = start < size
        points = source.client.retrieve(source.collection, ids=page, with_payload=needs_text, with_vectors=with_vectors)
        by_id = {point.id: point for point in points}
        for place, point_id in enumerate(page, start=start):
            point = by_id.get(point_id)
            vector = None if point is None else dense_vector(point.vector, name)
            if point is None or vector is None:
                continue
            if place >= size:
                rest.append(vector)
                continue
            node = _node(point, source)
            if node is not None:
                nodes.append(node)
                labelled.append(vector)
    if not nodes:
        raise ConfigurationError(
            f"collection {source.collection!r}: expected points with a vector and a text under {source.text_key!r}, found none"
        )
    empty = np.zeros((0, params.size), dtype=np.float32)
    return Sample(
        nodes,
        np.array(labelled, dtype=np.float32),
        np.array(rest, dtype=np.float32) if rest else empty,
        params.distance.value,
    )


def _pick(ids: Iterator[Any], count: int, seed: int) -> list[Any]:
    """Return the ids whose hash with the seed is smallest: a uniform sample in bounded memory, whatever the order."""
    return heapq.nsmallest(count, ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _ids(source: QdrantSource) -> Iterator[Any]:
    offset = None
    while True:
        points, offset = source.client.scroll(
            source.collection, limit=ID_PAGE, offset=offset, with_payload=False, with_vectors=False
        )
        yield from (point.id for point in points)
        if offset is None:
            return


def _dense(source: QdrantSource) -> tuple[str, Any]:
    """Return the true name and the parameters of the source's dense vector."""
    if not source.client.collection_exists(source.collection):
        raise ConfigurationError(f"collection {source.collection!r}: expected it to exist, found nothing of that name")
    vectors = source.client.get_collection(source.collection).config.params.vectors
    return dense_vector_params(vectors, source.vector_name, source.collection)


def _node(point: Any, source: QdrantSource) -> BaseNode | None:
    payload = dict(point.payload or {})
    if "_node_content" in payload:
        node = metadata_dict_to_node(payload)
        return node if node.get_content(MetadataMode.NONE).strip() else None
    text = payload.pop(source.text_key, None)
    if not isinstance(text, str) or not text.strip():
        return None
    return TextNode(id_=str(point.id), text=text, metadata=payload)
