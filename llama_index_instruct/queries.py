"""What both wrapping retrievers ask of a query and of the retriever inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import QueryBundle, QueryType
from llama_index.core.vector_stores.types import VectorStoreQueryMode

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.text import has_words

# Modes whose ranking is not that of one dense vector.
UNSUPPORTED_MODES = {
    VectorStoreQueryMode.SPARSE,
    VectorStoreQueryMode.TEXT_SEARCH,
    VectorStoreQueryMode.MMR,
}


def as_inner_retriever(retriever: Any, index: Any, *, usage: str) -> BaseRetriever:
    """Return the retriever to be wrapped.

    Args:
        retriever: A LlamaIndex retriever or an index, or None.
        index: Likewise; exactly one of the two is given.
        usage: An example of the call, for the message.

    Raises:
        ConfigurationError: If there is none or two, or its query mode has no dense vector.
    """
    if (retriever is None) == (index is None):
        raise ConfigurationError(f"expected a retriever or an index, and not both: {usage}")
    inner = retriever if index is None else index
    if isinstance(inner, BaseIndex):
        inner = inner.as_retriever()
    if not isinstance(inner, BaseRetriever):
        raise ConfigurationError(f"retriever: expected a LlamaIndex retriever or index, found {type(inner).__name__}")
    top_k = getattr(inner, "similarity_top_k", None)
    if isinstance(top_k, int) and top_k < 1:
        raise ConfigurationError(f"similarity_top_k: expected 1 or more, found {top_k}")
    mode = getattr(inner, "_vector_store_query_mode", None)
    if mode in UNSUPPORTED_MODES:
        raise ConfigurationError(
            f"retriever: query mode {mode.value!r} does not rank by one dense vector; use 'default' or 'hybrid'"
        )
    return inner


def as_bundle(query: QueryType) -> QueryBundle:
    """Return the query as a bundle with some text.

    Raises:
        ConfigurationError: If it is no query, or holds nothing that can be read.
    """
    bundle: Any = QueryBundle(query) if isinstance(query, str) else query
    text = getattr(bundle, "query_str", bundle)
    if not isinstance(bundle, QueryBundle) or not isinstance(text, str):
        raise ConfigurationError(f"query: expected a string or a QueryBundle, found {type(text).__name__}")
    if not has_words(text):
        raise ConfigurationError("query: expected some text, found an empty string")
    return bundle


def checked_vector(embedding: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the query vector, shape (d,); refuse zeros, NaN and infinity before any search."""
    with np.errstate(over="ignore"):  # becomes infinity, which is refused below
        vector = np.asarray(embedding, dtype=np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0.0:
        raise ConfigurationError(f"query embedding: expected finite numbers and a norm above 0, found norm {norm}")
    return vector


def with_embedding(query: QueryBundle, embedding: list[float]) -> QueryBundle:
    """Return a copy of the query with another embedding; the caller's bundle is never written to."""
    return QueryBundle(
        query_str=query.query_str,
        image_path=query.image_path,
        custom_embedding_strs=query.custom_embedding_strs,
        embedding=embedding,
    )
