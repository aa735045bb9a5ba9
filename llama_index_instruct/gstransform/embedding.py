"""TransformedEmbedding: an embedding model whose vectors come out transformed, for migrated collections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import Field, PrivateAttr

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.rows import unit_rows


class TransformedEmbedding(BaseEmbedding):
    """Wraps the embedding model of the source collection: queries and new documents fit the collection made by a transform.

    Args:
        embed_model: The model that made the source's vectors.
        transform: A ``GSTransform`` or the folder of a saved one. ``from_dict`` needs ``embed_model`` given again, and the
            transform unless it came from a folder.

    Example:
        >>> store = QdrantVectorStore("mood", client=client)  # doctest: +SKIP
        >>> index = VectorStoreIndex.from_vector_store(
        ...     store, embed_model=TransformedEmbedding(embed_model, "mood/")
        ... )  # doctest: +SKIP
    """

    embed_model: BaseEmbedding = Field(description="The model that made the source's vectors.")
    transform_path: str | None = Field(default=None, description="Folder of the transform, if it came from one.")
    transform_digest: str = Field(default="", description="Which transform; tells caches apart.")

    _transform: GSTransform = PrivateAttr()

    def __init__(
        self,
        embed_model: BaseEmbedding,
        transform: GSTransform | str | Path | None = None,
        *,
        transform_path: str | None = None,
        transform_digest: str = "",
        **kwargs: Any,
    ) -> None:
        given = transform if transform is not None else transform_path
        if not isinstance(given, (GSTransform, str, Path)):
            raise ConfigurationError(f"transform: expected a GSTransform or a folder, found {type(given).__name__}")
        if not isinstance(embed_model, BaseEmbedding):
            raise ConfigurationError(
                f"embed_model: expected an embedding model, found {type(embed_model).__name__}; give it again to from_dict(...)"
            )
        loaded = given if isinstance(given, GSTransform) else GSTransform.from_pretrained(given)
        if transform_digest not in ("", loaded.digest):
            raise ConfigurationError(
                f"transform_digest: expected {transform_digest[:12]}, the transform has {loaded.digest[:12]}"
            )
        fields: dict[str, Any] = {
            "embed_model": embed_model,
            "transform_digest": loaded.digest,
            "transform_path": None if isinstance(given, GSTransform) else str(given),
            "model_name": f"{embed_model.model_name}+{loaded.digest[:12]}",
            "embed_batch_size": embed_model.embed_batch_size,
            **kwargs,
        }
        super().__init__(**fields)
        self._transform = loaded

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "TransformedEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._moved([self.embed_model.get_query_embedding(query)])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._moved([await self.embed_model.aget_query_embedding(query)])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._moved(self.embed_model.get_text_embedding_batch(texts))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._moved(await self.embed_model.aget_text_embedding_batch(texts))

    def _moved(self, vectors: list[list[float]]) -> list[list[float]]:
        rows = np.array(vectors, dtype=np.float32)
        if rows.shape[-1] != self._transform.input_dimension:
            raise DimensionMismatchError(
                f"transform expects {self._transform.input_dimension}, {self.embed_model.model_name} makes vectors of "
                f"{rows.shape[-1]}"
            )
        unit: list[list[float]] = unit_rows(self._transform.transform(rows)).tolist()
        return unit
