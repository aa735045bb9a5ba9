"""GSTransformPostprocessor: ranks retrieved nodes by an instruction, from the vectors already stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.gstransform.choice import Choose, TransformChoice, Transforms
from llama_index_instruct.gstransform.course import OnError, Ranking, RankingSettings, rerank_course
from llama_index_instruct.gstransform.performing import Performer
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.queries import as_bundle
from llama_index_instruct.spans import span
from llama_index_instruct.steps import arun_course, run_course

dispatcher = get_dispatcher(__name__)


class GSTransformPostprocessor(BaseNodePostprocessor):
    """Orders hits by the cosine of their transformed stored vectors; no text is encoded but, where needed, the query.

    Scores become cosines in the transformed geometry, in [-1, 1]: a ``similarity_cutoff`` after this one acts on them. Hits
    whose vectors cannot be had go last, in their old order, without a score, with one ``InstructWarning``. The nodes
    given in are not changed. Traces show LlamaIndex's events of a reranker, a ``GSTransformEvent``, and a span
    ``GSTransformPostprocessor.rerank`` with one per step below it: ``GSTransform.embed``, ``.vectors``, ``.transform``.

    Args:
        transform: A ``GSTransform``, the folder of a saved one, or several by name together with ``choose``.
        vector_store: Where the hits' vectors are stored; not needed for hits that carry their embedding.
        embed_model: Embeds the query, if it does not come with an embedding of the right size. None = ``Settings.embed_model``.
        top_n: Hits returned; None = all.
        choose: Query bundle -> name of one of several transforms.
        encode_missing: Allow hits without a stored vector to be encoded again.
        keep_retrieval_score: Keep the score before as ``retrieval_score`` in the metadata.
        on_error: When no vector can be had: ``"plain"`` = the hits as they came and a warning, ``"raise"`` = the error.
        allow_other_model: Make another embedding model than the transform's a warning instead of an error.

    Raises:
        ConfigurationError: If a setting is out of range.
        TransformFileError: If a saved transform is damaged.

    Example:
        >>> rerank = GSTransformPostprocessor("mood/", vector_store=index.vector_store)  # doctest: +SKIP
        >>> engine = index.as_query_engine(similarity_top_k=100, node_postprocessors=[rerank])  # doctest: +SKIP
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    transform_path: str | dict[str, str] | None = Field(
        default=None, description="Folder(s) of the saved transform(s)."
    )
    top_n: int | None = Field(default=None, description="Hits returned; None = all.")
    encode_missing: bool = Field(default=False, description="Whether hits without a stored vector are encoded again.")
    keep_retrieval_score: bool = Field(default=False, description="Whether the score before goes into the metadata.")
    on_error: OnError = Field(default="plain", description="What to do when no vector can be had.")
    allow_other_model: bool = Field(default=False, description="Whether another embedding model is only a warning.")

    _choice: TransformChoice = PrivateAttr()
    _performer: Performer = PrivateAttr()
    _checked: set[int] = PrivateAttr(default_factory=set)

    def __init__(
        self,
        transform: Transforms | None = None,
        *,
        vector_store: BasePydanticVectorStore | None = None,
        embed_model: BaseEmbedding | None = None,
        top_n: int | None = None,
        choose: Choose | None = None,
        encode_missing: bool = False,
        keep_retrieval_score: bool = False,
        on_error: OnError = "plain",
        allow_other_model: bool = False,
        transform_path: str | dict[str, str] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if (transform is None) == (transform_path is None):
            raise ConfigurationError(
                'transform: expected a GSTransform or a folder: GSTransformPostprocessor("folder")'
            )
        if top_n is not None and top_n < 1:
            raise ConfigurationError(f"top_n: expected 1 or more, or None, found {top_n}")
        if on_error not in ("plain", "raise"):
            raise ConfigurationError(f"on_error: expected 'plain' or 'raise', found {on_error!r}")
        given: Transforms = transform if transform is not None else transform_path  # type: ignore[assignment]
        fields: dict[str, Any] = {
            "transform_path": transform_path if transform_path is not None else _path_of(given),
            "top_n": top_n,
            "encode_missing": encode_missing,
            "keep_retrieval_score": keep_retrieval_score,
            "on_error": on_error,
            "allow_other_model": allow_other_model,
            "callback_manager": callback_manager or CallbackManager([]),
        }
        super().__init__(**fields)
        self._choice = TransformChoice.of(given, choose)
        self._performer = Performer(vector_store, embed_model, encode_missing=encode_missing)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serialises it."""
        return "GSTransformPostprocessor"

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex's own would leave out, with a log line, whatever cannot be pickled, such as a store.
        return BaseModel.__getstate__(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # LlamaIndex's own would call the constructor with the public fields only, and so lose the store and the model.
        BaseModel.__setstate__(self, state)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        query, transform = self._chosen(query_bundle)
        course = self._course(nodes, query, transform)
        with span("GSTransformPostprocessor.rerank", nodes=len(nodes)) as counts:
            self._started(nodes, query, transform)
            with self.callback_manager.event(CBEventType.RERANKING, payload=self._payload(nodes, query)) as event:
                ranked = run_course(course, self._performer.perform)
                event.on_end(payload={EventPayload.NODES: ranked})
            dispatcher.event(ReRankEndEvent(nodes=ranked))
            counts["ranked"] = len(ranked)
        return ranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        query, transform = self._chosen(query_bundle)
        course = self._course(nodes, query, transform)
        # LlamaIndex opens a span around the synchronous twin only.
        with span("GSTransformPostprocessor.rerank", nodes=len(nodes)) as counts:
            self._started(nodes, query, transform)
            with self.callback_manager.event(CBEventType.RERANKING, payload=self._payload(nodes, query)) as event:
                ranked = await arun_course(course, self._performer.aperform)
                event.on_end(payload={EventPayload.NODES: ranked})
            dispatcher.event(ReRankEndEvent(nodes=ranked))
            counts["ranked"] = len(ranked)
        return ranked

    def _chosen(self, query: QueryBundle | None) -> tuple[QueryBundle, GSTransform]:
        if query is None:
            raise ConfigurationError("query: expected one; call postprocess_nodes(nodes, query_str=...)")
        bundle = as_bundle(query)
        return bundle, self._choice.pick(bundle)

    def _course(self, nodes: list[NodeWithScore], query: QueryBundle, transform: GSTransform) -> Ranking:
        settings = RankingSettings(
            top_n=self.top_n,
            on_error=self.on_error,
            allow_other_model=self.allow_other_model,
            keep_retrieval_score=self.keep_retrieval_score,
            checked=self._checked,
        )
        return rerank_course(nodes, query, transform, settings)

    def _started(self, nodes: list[NodeWithScore], query: QueryBundle, transform: GSTransform) -> None:
        dispatcher.event(
            ReRankStartEvent(
                query=query,
                nodes=nodes,
                top_n=self.top_n or len(nodes),
                model_name=transform.info.embed_model,
            )
        )

    def _payload(self, nodes: list[NodeWithScore], query: QueryBundle) -> dict[str, Any]:
        return {
            EventPayload.NODES: nodes,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: self.top_n or len(nodes),
        }


def _path_of(transform: Transforms) -> str | dict[str, str] | None:
    if isinstance(transform, (str, Path)):
        return str(transform)
    if isinstance(transform, Mapping) and all(isinstance(path, (str, Path)) for path in transform.values()):
        return {name: str(path) for name, path in transform.items()}
    return None
