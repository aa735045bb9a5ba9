"""A retrieval set in an in-process Qdrant behind LlamaIndex's own index, as an application would have it."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import BaseNode, NodeWithScore, TextNode

from llama_index_instruct.evaluation.datasets import RetrievalSet

if TYPE_CHECKING:
    from qdrant_client import models

# Hits of every search: as many as a refinement chooses from by default.
DEPTH = 100


class IndexedSet:
    """The documents of a set, searchable; close it, or use it as a context.

    Args:
        data: Queries, documents and which go together.
        vectors: Of the documents, shape (n, d).
        embed_model: Made them, and embeds the queries.
    """

    def __init__(self, data: RetrievalSet, vectors: npt.NDArray[np.float32], embed_model: BaseEmbedding) -> None:
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from qdrant_client import QdrantClient

        self.data = data
        self.vectors = vectors
        self.embed_model = embed_model
        self.client = QdrantClient(":memory:")
        nodes: list[BaseNode] = [
            TextNode(text=text, id_=_id(row), embedding=vector.tolist())
            for row, (text, vector) in enumerate(zip(data.documents, vectors, strict=True))
        ]
        with warnings.catch_warnings():
            # The store asks for a payload index, which the in-process Qdrant says it does not need.
            warnings.filterwarnings("ignore", message="Payload indexes have no effect", category=UserWarning)
            self.store = QdrantVectorStore(collection_name="documents", client=self.client)
            self.store.add(nodes)

    def __enter__(self) -> IndexedSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def retriever(self, q: int, *, embed_model: BaseEmbedding | None = None) -> BaseRetriever:
        """Return the plain retriever of a query, restricted to its pool if it has one.

        Args:
            q: Number of the query.
            embed_model: In the place of the model that made the vectors.
        """
        index = VectorStoreIndex.from_vector_store(self.store, embed_model=embed_model or self.embed_model)
        restricted: dict[str, Any] = {} if self.data.pools is None else {"qdrant_filters": self.only_pool(q)}
        return index.as_retriever(similarity_top_k=DEPTH, vector_store_kwargs=restricted)

    def only_pool(self, q: int) -> models.Filter | None:
        """Return Qdrant's filter for the documents a query is ranked over; None = all."""
        from qdrant_client import models

        if self.data.pools is None:
            return None
        return models.Filter(must=[models.HasIdCondition(has_id=[_id(row) for row in self.data.pools[q].tolist()])])


def rows_of(hits: Sequence[NodeWithScore]) -> npt.NDArray[np.intp]:
    """Return which documents were found, best first."""
    return np.array([uuid.UUID(hit.node.node_id).int - 1 for hit in hits], dtype=np.intp)


def _id(row: int) -> str:
    return str(uuid.UUID(int=row + 1))
