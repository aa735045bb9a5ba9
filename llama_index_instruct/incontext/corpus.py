"""The passages that are searched for negatives: from texts, nodes or a LlamaIndex index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.text import has_words
from llama_index_instruct.vectors import stored_vectors

if TYPE_CHECKING:
    from llama_index.core.indices.vector_store import VectorStoreIndex

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Different passages, none of them blank.

    Attributes:
        texts: n of them, as an embedding model reads them.
        rows: Text to row; a node is also known by its text without metadata, as which a positive usually comes.
        vectors: As stored, shape (n, d), rows of NaN where there is none; None if no store gave any.
    """

    texts: list[str]
    rows: dict[str, int]
    vectors: FloatArray | None


def make_corpus(passages: Any, positives: Iterable[str]) -> Corpus:
    """Return the corpus of some passages and all positives.

    Args:
        passages: Texts, nodes, a LlamaIndex index, or None.
        positives: Texts; those not among the passages are added.

    Raises:
        ConfigurationError: If the passages are something else, or a positive is blank.
    """
    given, bare, vectors = _given(passages)
    rows: dict[str, int] = {}
    first: list[int] = []
    for at, text in enumerate(given):
        if has_words(text) and text not in rows:
            rows[text] = len(first)
            first.append(at)
    texts = [given[at] for at in first]
    for text, known_as in zip(given, bare, strict=True):
        if text in rows:
            rows.setdefault(known_as, rows[text])
    for positive in positives:
        if not has_words(positive):
            raise ConfigurationError(f"pairs: expected positives with some text, found {positive!r}")
        if positive not in rows:
            rows[positive] = len(texts)
            texts.append(positive)
    return Corpus(texts, rows, _stored(vectors, first, len(texts)))


def _given(passages: Any) -> tuple[list[str], list[str], FloatArray | None]:
    """Return texts, the same without metadata, and their stored vectors."""
    if passages is None:
        return [], [], None
    if hasattr(passages, "docstore") and hasattr(passages, "vector_store"):
        nodes = index_nodes(passages)
        return node_texts(nodes), node_texts(nodes, MetadataMode.NONE), stored_vectors(nodes, passages.vector_store)
    if isinstance(passages, str) or not isinstance(passages, Sequence):
        raise ConfigurationError(f"passages: expected texts, nodes or an index, found {type(passages).__name__}")
    if all(isinstance(passage, BaseNode) for passage in passages):
        return node_texts(passages), node_texts(passages, MetadataMode.NONE), None
    for at, passage in enumerate(passages):
        if not isinstance(passage, str):
            raise ConfigurationError(f"passages: expected texts or nodes, found {type(passage).__name__} at place {at}")
    return list(passages), list(passages), None


def _stored(vectors: FloatArray | None, first: Sequence[int], count: int) -> FloatArray | None:
    if vectors is None or not vectors.shape[1]:
        return None
    rows = np.full((count, vectors.shape[1]), np.nan, dtype=np.float32)
    rows[: len(first)] = vectors[list(first)]
    return rows


def index_nodes(index: VectorStoreIndex) -> list[BaseNode]:
    """Return the nodes of an index, from its docstore or from Qdrant.

    Raises:
        ConfigurationError: If neither has any.
    """
    nodes: list[BaseNode] = list(index.docstore.docs.values())
    store: Any = index.vector_store
    if not nodes and store.class_name() == "QdrantVectorStore":
        if store.client is None:
            raise ConfigurationError("index: expected a synchronous Qdrant client, found only an async one")
        # Its own default would stop at 9,999.
        nodes = store.get_nodes(limit=max(1, store.client.count(store.collection_name).count))
    if not nodes:
        raise ConfigurationError(
            f"index: expected nodes in its docstore or in Qdrant, found none ({type(store).__name__}); give the nodes instead"
        )
    return nodes


def node_texts(nodes: Sequence[BaseNode], mode: MetadataMode = MetadataMode.EMBED) -> list[str]:
    """Return the texts of nodes, by default as an embedding model reads them."""
    return [node.get_content(mode) for node in nodes]
