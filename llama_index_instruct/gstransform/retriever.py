"""GSTransformRetriever: searches the whole, untouched collection in the geometry of an instruction."""

from __future__ import annotations

import copy
import math
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.gstransform.choice import Choose, TransformChoice, Transforms
from llama_index_instruct.gstransform.course import OnError, Ranking, RankingSettings, search_course
from llama_index_instruct.gstransform.performing import Performer
from llama_index_instruct.queries import as_bundle, as_inner_retriever
from llama_index_instruct.steps import arun_course, run_course


class GSTransformRetriever(BaseRetriever):
    """Wraps a vector retriever: one search with ``search_vector``, more hits than asked for, scored exactly.

    Nothing in the collection changes, and its metadata filters hold. Unlike a postprocessor it finds what plain search would
    not bring into its first hits. Scores are cosines in the transformed geometry, in [-1, 1]. Traces show a
    ``GSTransformEvent`` and a span per step: ``GSTransform.embed``, ``.search``, ``.vectors``, ``.transform``.

    Args:
        retriever: A vector index or any LlamaIndex retriever that honours ``QueryBundle.embedding``.
        index: An index, when given by keyword.
        transform: A ``GSTransform``, the folder of a saved one, or several by name together with ``choose``.
        similarity_top_k: Hits returned; None = that of the retriever.
        overfetch: Hits fetched per hit returned, to score exactly. 3 is as good as the whole collection in our measurements.
        choose: Query bundle -> name of one of several transforms; or see ``using``.
        vector_store: Where the hits' vectors are stored; found on a vector index retriever by itself.
        embed_model: Embeds queries; found on a vector index retriever by itself.
        encode_missing: Allow hits without a stored vector to be encoded again.
        keep_retrieval_score: Keep the store's score, a dot product with the search vector, in the metadata.
        on_error: When no vector can be fetched: ``"plain"`` = the hits in the order of the search, which is nearly that of the
            transformed cosine, and a warning; ``"raise"`` = the error.
        allow_other_model: Make another embedding model than the transform's a warning instead of an error.

    Raises:
        ConfigurationError: If a setting is out of range, a transform is not linear, or the query mode has no dense vector.
        TransformFileError: If a saved transform is damaged.

    Example:
        >>> retriever = GSTransformRetriever(index, transform="mood/", similarity_top_k=20)  # doctest: +SKIP
        >>> nodes = retriever.retrieve("relieved that it works again")  # doctest: +SKIP
    """

    def __init__(
        self,
        retriever: BaseRetriever | BaseIndex[Any] | None = None,
        *,
        transform: Transforms,
        index: BaseIndex[Any] | None = None,
        similarity_top_k: int | None = None,
        overfetch: float = 3.0,
        choose: Choose | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        embed_model: BaseEmbedding | None = None,
        encode_missing: bool = False,
        keep_retrieval_score: bool = False,
        on_error: OnError = "plain",
        allow_other_model: bool = False,
    ) -> None:
        inner = as_inner_retriever(retriever, index, usage="GSTransformRetriever(index, transform=...)")
        if similarity_top_k is not None and similarity_top_k < 1:
            raise ConfigurationError(f"similarity_top_k: expected 1 or more, or None, found {similarity_top_k}")
        if not 1.0 <= overfetch < math.inf:
            raise ConfigurationError(f"overfetch: expected 1 or more, found {overfetch}")
        if on_error not in ("plain", "raise"):
            raise ConfigurationError(f"on_error: expected 'plain' or 'raise', found {on_error!r}")
        super().__init__(callback_manager=inner.callback_manager)
        self.retriever = inner
        self.choice = _searchable(TransformChoice.of(transform, choose))
        self.similarity_top_k = similarity_top_k or getattr(inner, "similarity_top_k", None)
        self.overfetch = overfetch
        self.keep_retrieval_score = keep_retrieval_score
        self.on_error: OnError = on_error
        self.allow_other_model = allow_other_model
        self._checked: set[int] = set()
        self._performer = Performer(
            vector_store or getattr(inner, "_vector_store", None),
            embed_model or getattr(inner, "_embed_model", None),
            encode_missing=encode_missing,
            search=self._wide,
        )

    def using(self, name: str) -> GSTransformRetriever:
        """Return a retriever over the same collection that always takes the transform of that name."""
        return GSTransformRetriever(
            self.retriever,
            transform={name: self.choice.named(name)},
            similarity_top_k=self.similarity_top_k,
            overfetch=self.overfetch,
            vector_store=self._performer.vector_store,
            embed_model=self._performer.embed_model,
            encode_missing=self._performer.encode_missing,
            keep_retrieval_score=self.keep_retrieval_score,
            on_error=self.on_error,
            allow_other_model=self.allow_other_model,
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return run_course(self._course(query_bundle), self._performer.perform)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await arun_course(self._course(query_bundle), self._performer.aperform)

    def _course(self, query: QueryBundle) -> Ranking:
        bundle = as_bundle(query)
        settings = RankingSettings(
            top_n=self.similarity_top_k,
            on_error=self.on_error,
            allow_other_model=self.allow_other_model,
            keep_retrieval_score=self.keep_retrieval_score,
            checked=self._checked,
        )
        return search_course(bundle, self.choice.pick(bundle), settings)

    def _wide(self) -> BaseRetriever:
        """Return a copy of the inner retriever that fetches more hits; one without a top-k fetches what it fetches."""
        inner = self.retriever
        if self.similarity_top_k is None or not hasattr(inner, "similarity_top_k"):
            return inner
        wide = copy.copy(inner)
        wide.similarity_top_k = max(self.similarity_top_k, math.ceil(self.overfetch * self.similarity_top_k))
        return wide


def _searchable(choice: TransformChoice) -> TransformChoice:
    for name, transform in choice.transforms.items():
        if not transform.is_linear:
            raise ConfigurationError(
                f"transform {name!r}: expected a linear one, found method {transform.info.method!r}, which cannot search"
            )
    return choice
