"""Carries out the steps of a transformed ranking: the only part that touches the store and the embedding model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.settings import Settings
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llama_index_instruct.gstransform.course import DescribeStore, Embed, Probe, Search, Step, counts_of
from llama_index_instruct.gstransform.fingerprint import afingerprint, fingerprint
from llama_index_instruct.gstransform.stores import adescribe_store, describe_store
from llama_index_instruct.spans import span
from llama_index_instruct.vectors import astored_vectors, stored_vectors


@dataclass(frozen=True, eq=False)
class ProbedModel:
    """An embedding model's name and fingerprint."""

    model: str
    vectors: npt.NDArray[np.float32]


class Performer:
    """Knows the store, the embedding model and, for a search, the inner retriever.

    Args:
        vector_store: Where the hits' vectors are stored.
        embed_model: Embeds the query; None = ``Settings.embed_model``, looked up when it is needed.
        encode_missing: Whether hits without a stored vector may be encoded again.
        search: Returns the retriever that ``Search`` asks.
    """

    def __init__(
        self,
        vector_store: BasePydanticVectorStore | None,
        embed_model: BaseEmbedding | None,
        *,
        encode_missing: bool = False,
        search: Callable[[], BaseRetriever] | None = None,
    ) -> None:
        self.vector_store = vector_store
        self.embed_model = embed_model
        self.encode_missing = encode_missing
        self.search = search
        self._probed: tuple[BaseEmbedding, ProbedModel] | None = None

    def perform(self, step: Step) -> Any:
        """Return what a step asks for."""
        with span(f"GSTransform.{step.stage}") as counts:
            result = self._result(step)
            counts |= counts_of(step, result)
        return result

    async def aperform(self, step: Step) -> Any:
        """Asynchronous twin of ``perform``."""
        with span(f"GSTransform.{step.stage}") as counts:
            result = await self._aresult(step)
            counts |= counts_of(step, result)
        return result

    def _result(self, step: Step) -> Any:
        if isinstance(step, DescribeStore):
            return describe_store(self.vector_store)
        if isinstance(step, Probe):
            model = self._used(step)
            if model is not None and (self._probed is None or self._probed[0] is not model):
                self._probed = model, ProbedModel(model.model_name, fingerprint(model))
            return None if model is None or self._probed is None else self._probed[1]
        if isinstance(step, Embed):
            if _usable(step):
                return step.query.embedding
            return self._embedder().get_agg_embedding_from_queries(step.query.embedding_strs)
        if isinstance(step, Search):
            return self._searched().retrieve(step.query)
        return stored_vectors(step.nodes, self.vector_store, embed_model=self._encoder())

    async def _aresult(self, step: Step) -> Any:
        if isinstance(step, DescribeStore):
            return await adescribe_store(self.vector_store)
        if isinstance(step, Probe):
            model = self._used(step)
            if model is not None and (self._probed is None or self._probed[0] is not model):
                self._probed = model, ProbedModel(model.model_name, await afingerprint(model))
            return None if model is None or self._probed is None else self._probed[1]
        if isinstance(step, Embed):
            if _usable(step):
                return step.query.embedding
            return await self._embedder().aget_agg_embedding_from_queries(step.query.embedding_strs)
        if isinstance(step, Search):
            return await self._searched().aretrieve(step.query)
        return await astored_vectors(step.nodes, self.vector_store, embed_model=self._encoder())

    def _used(self, step: Probe) -> BaseEmbedding | None:
        """Return the model given, or that of the settings if it is about to embed the query."""
        return None if self.embed_model is None and _usable(step) else self._embedder()

    def _embedder(self) -> BaseEmbedding:
        return self.embed_model if self.embed_model is not None else Settings.embed_model

    def _encoder(self) -> BaseEmbedding | None:
        return self._embedder() if self.encode_missing else None

    def _searched(self) -> BaseRetriever:
        assert self.search is not None  # only the retriever's course searches
        return self.search()


def _usable(step: Embed | Probe) -> bool:
    """Return whether the bundle's embedding is of the size of the stored vectors; others were made for other retrievers."""
    return step.query.embedding is not None and len(step.query.embedding) == step.size
