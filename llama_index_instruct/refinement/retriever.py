"""RefinementRetriever: any LlamaIndex retriever, its query vector moved by a few judgements, searched again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.indices.base import BaseIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryMode

from llama_index_instruct.errors import ConfigurationError, InstructWarning, RefinementError
from llama_index_instruct.refinement.candidates import Candidates, usable_candidates
from llama_index_instruct.refinement.rounds import RefinementRounds
from llama_index_instruct.refinement.selection import SelectionSettings
from llama_index_instruct.refinement.settings import Method, make_settings
from llama_index_instruct.refinement.trace import JudgedNode, RefinementEvent, RefinementTrace, Stopwatch
from llama_index_instruct.teacher.calls import FATAL
from llama_index_instruct.teacher.judge import Judgements, RelevanceJudge, seconds_from_now
from llama_index_instruct.teacher.prompts import Prompt
from llama_index_instruct.teacher.standins import Judge, as_judge
from llama_index_instruct.teacher.usage import Usage
from llama_index_instruct.vectors import astored_vectors, stored_vectors

dispatcher = get_dispatcher(__name__)

# Modes whose ranking is not that of one dense vector.
_UNSUPPORTED_MODES = {
    VectorStoreQueryMode.SPARSE,
    VectorStoreQueryMode.TEXT_SEARCH,
    VectorStoreQueryMode.MMR,
}


@dataclass(frozen=True)
class _Embed:
    query: QueryBundle


@dataclass(frozen=True)
class _Search:
    query: QueryBundle
    wide: bool


@dataclass(frozen=True)
class _FetchVectors:
    nodes: Sequence[BaseNode]


@dataclass(frozen=True)
class _AskTeacher:
    query: str
    nodes: Sequence[BaseNode]
    deadline: float | None


_Step = _Embed | _Search | _FetchVectors | _AskTeacher
# The course of one query asks for input and output by yielding steps; a synchronous and an asynchronous driver carry them
# out. So there is one course, and the two ways cannot drift apart.
_Course = Generator[_Step, Any, RefinementTrace]


class RefinementRetriever(BaseRetriever):
    """Wraps a retriever: judge a few of its hits, move the query vector accordingly, search again.

    The order and the scores always come from the store, searched with the moved vector: a passage that fools the teacher
    lifts itself only as far as the vector moves. Trouble in judging, solving or searching again gives the unrefined ranking
    with one ``InstructWarning``; trouble in embedding or in the first search is the original exception.

    Args:
        retriever: Any LlamaIndex retriever that honours ``QueryBundle.embedding``, or a vector index. Its filters, top-k and
            hybrid settings hold for the second search too.
        index: An index, when given by keyword.
        llm: Any LlamaIndex LLM, made into a ``RelevanceJudge``.
        judge: In the LLM's place: a ``RelevanceJudge``, a node postprocessor that scores, or a callable
            ``(query, passages) -> scores``.
        task: What counts as relevant, in a sentence; with ``llm``.
        judged: Passages judged per query.
        rounds: Rounds of judging; each costs the latency of one call, and later ones choose better.
        method: ``"logistic"`` (ours), ``"kl"`` (the paper's objective) or ``"rocchio"``.
        method_settings: Settings of the method, see ``refine_query``.
        selection: How the passages to be judged are chosen.
        candidates: Hits fetched, vectors included, to choose them from; dense queries only.
        judge_deadline: Seconds for the whole judging stage, whatever retries the LLM makes; None = no limit.
        pin_judged: Put passages judged relevant first. For corpora you trust: it gives up the bound above.
        on_error: ``"plain"`` = unrefined ranking and a warning; ``"raise"`` = ``RefinementError``.
        vector_store: Where the hits' vectors are stored; found on a vector index retriever by itself.
        embed_model: Embeds queries; found on a vector index retriever by itself.
        encode_missing: Allow hits without a stored vector to be encoded again.

    Raises:
        ConfigurationError: If a setting is out of range, or the retriever's query mode has no dense vector.

    Example:
        >>> retriever = RefinementRetriever(index, llm=OpenAI("gpt-4.1-mini"))  # doctest: +SKIP
        >>> nodes = retriever.retrieve("angry about a refund that was promised")  # doctest: +SKIP
    """

    def __init__(
        self,
        retriever: BaseRetriever | BaseIndex[Any] | None = None,
        *,
        index: BaseIndex[Any] | None = None,
        llm: LLM | None = None,
        judge: Any = None,
        task: str = "",
        judged: int = 20,
        rounds: int = 2,
        method: Method = "logistic",
        method_settings: dict[str, Any] | None = None,
        selection: SelectionSettings | None = None,
        candidates: int = 100,
        judge_deadline: float | None = 10.0,
        pin_judged: bool = False,
        on_error: Literal["plain", "raise"] = "plain",
        vector_store: BasePydanticVectorStore | None = None,
        embed_model: BaseEmbedding | None = None,
        encode_missing: bool = False,
    ) -> None:
        inner = _as_retriever(retriever, index)
        _check_settings(judged, rounds, candidates, judge_deadline, on_error)
        make_settings(method, method_settings or {})
        super().__init__(callback_manager=inner.callback_manager)
        self.retriever = inner
        self.judge = _as_given_judge(llm, judge, task)
        self.judged = judged
        self.rounds = rounds
        self.method: Method = method
        self.method_settings = dict(method_settings or {})
        self.selection = selection or SelectionSettings()
        self.candidates = candidates
        self.judge_deadline = judge_deadline
        self.pin_judged = pin_judged
        self.on_error = on_error
        self.vector_store = vector_store or getattr(inner, "_vector_store", None)
        self.embed_model = embed_model or getattr(inner, "_embed_model", None)
        self.encode_missing = encode_missing
        if self.embed_model is None:
            raise ConfigurationError(
                f"embed_model: {type(inner).__name__} carries none; give RefinementRetriever(..., embed_model=...) the model "
                "that made the stored vectors"
            )

    def refine(self, query: QueryType) -> RefinementTrace:
        """Return the refined ranking of a query with everything that led to it.

        Raises:
            ConfigurationError: If the query is empty or its vector is zero or not finite; before any search.
            RefinementError: If an optional stage fails and ``on_error="raise"``.
        """
        course = self._course(_as_bundle(query))
        try:
            step = next(course)
            while True:
                try:
                    result = self._perform(step)
                except Exception as error:
                    step = course.throw(error)
                else:
                    step = course.send(result)
        except StopIteration as end:
            return self._ended(end.value)

    async def arefine(self, query: QueryType) -> RefinementTrace:
        """Asynchronous twin of ``refine``."""
        course = self._course(_as_bundle(query))
        try:
            step = next(course)
            while True:
                try:
                    result = await self._aperform(step)
                except Exception as error:
                    step = course.throw(error)
                else:
                    step = course.send(result)
        except StopIteration as end:
            return self._ended(end.value)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.refine(query_bundle).nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return (await self.arefine(query_bundle)).nodes

    def _course(self, query: QueryBundle) -> _Course:
        watch = Stopwatch()
        with watch.stage("embed"):
            embedding = yield _Embed(query)
        vector = _checked_vector(embedding)
        # The first search gets the very numbers the plain retriever would send, so that its scores are the same to the bit.
        query = _with_embedding(query, list(embedding))
        with watch.stage("search"):
            hits = yield _Search(query, wide=True)
        plain = hits[: self._top_k(len(hits))]
        state = _State(query, vector, plain, watch)
        if not hits:
            return state.unchanged("the first search found nothing")
        try:
            return (yield from self._refined(state, hits))
        except (*FATAL, RefinementError):
            raise
        except Exception as error:
            return self._given_up(state, f"{type(error).__name__} in the refinement stage", error)

    def _refined(self, state: _State, hits: list[NodeWithScore]) -> _Course:
        with state.watch.stage("vectors"):
            vectors = yield _FetchVectors([hit.node for hit in hits])
            pool = usable_candidates([hit.node for hit in hits], vectors)
        state.pool = pool
        if pool.unusable:
            state.trouble = f"stored vectors missing or not finite: {', '.join(pool.unusable[:5])}"
        if len(pool.nodes) == 0:
            return self._given_up(state, "no hit has a usable stored vector", None)
        rounds = RefinementRounds(
            state.vector, pool.vectors, judged=self.judged, rounds=self.rounds, selection=self.selection
        )
        yield from self._judge_rounds(state, pool, rounds)
        with state.watch.stage("solve"):
            refined = rounds.refine(self.method, **self.method_settings)
        if not refined.moved:
            if state.teacher_trouble:
                return self._given_up(state, state.teacher_trouble, None)
            return state.unchanged(refined.reason)
        moved = (refined.vector * np.linalg.norm(state.vector)).astype(np.float32)
        with state.watch.stage("search_again"):
            nodes = yield _Search(_with_embedding(state.query, moved.tolist()), wide=False)
        if self.pin_judged:
            nodes = _pinned(nodes, state, refined.vector)
        if pool.unusable:
            _warn(state.trouble or "")
        return state.changed(nodes, moved, refined.angle)

    def _judge_rounds(self, state: _State, pool: Candidates, rounds: RefinementRounds) -> Generator[_Step, Any, None]:
        deadline = seconds_from_now(self.judge_deadline)
        for number in range(1, self.rounds + 1):
            with state.watch.stage("solve"):
                rows = rounds.next_rows()
            if len(rows) == 0:
                return
            nodes = [pool.nodes[row] for row in rows]
            with state.watch.stage("judge"):
                said: Judgements = yield _AskTeacher(state.query.query_str, nodes, deadline)
            rounds.record(rows, said.relevance)
            state.record(nodes, said, number)
            if np.isnan(said.relevance).all():
                return

    def _perform(self, step: _Step) -> Any:
        if isinstance(step, _Embed):
            if step.query.embedding is not None:
                return step.query.embedding
            return self._embedder.get_agg_embedding_from_queries(step.query.embedding_strs)
        if isinstance(step, _Search):
            return self._inner(step.wide).retrieve(step.query)
        if isinstance(step, _FetchVectors):
            return stored_vectors(step.nodes, self.vector_store, embed_model=self._encoder)
        return self.judge.assess(step.query, step.nodes, deadline=step.deadline)

    async def _aperform(self, step: _Step) -> Any:
        if isinstance(step, _Embed):
            if step.query.embedding is not None:
                return step.query.embedding
            return await self._embedder.aget_agg_embedding_from_queries(step.query.embedding_strs)
        if isinstance(step, _Search):
            return await self._inner(step.wide).aretrieve(step.query)
        if isinstance(step, _FetchVectors):
            return await astored_vectors(step.nodes, self.vector_store, embed_model=self._encoder)
        return await self.judge.aassess(step.query, step.nodes, deadline=step.deadline)

    @property
    def _embedder(self) -> BaseEmbedding:
        assert self.embed_model is not None  # checked at construction
        return self.embed_model

    @property
    def _encoder(self) -> BaseEmbedding | None:
        return self.embed_model if self.encode_missing else None

    def _inner(self, wide: bool) -> BaseRetriever:
        """Return the wrapped retriever; for the first search of a dense query, a copy that fetches more hits."""
        top_k = getattr(self.retriever, "similarity_top_k", None)
        mode = getattr(self.retriever, "_vector_store_query_mode", None)
        if not wide or top_k is None or mode != VectorStoreQueryMode.DEFAULT or top_k >= self.candidates:
            return self.retriever
        wider = copy.copy(self.retriever)
        wider.similarity_top_k = self.candidates  # type: ignore[attr-defined]
        return wider

    def _top_k(self, found: int) -> int:
        mode = getattr(self.retriever, "_vector_store_query_mode", None)
        top_k = getattr(self.retriever, "similarity_top_k", None)
        return found if top_k is None or mode != VectorStoreQueryMode.DEFAULT else int(top_k)

    def _given_up(self, state: _State, reason: str, cause: Exception | None) -> RefinementTrace:
        if self.on_error == "raise":
            raise RefinementError(f"query refinement failed: {reason}") from cause
        _warn(reason)
        return state.unchanged(reason, trouble=reason)

    def _ended(self, trace: RefinementTrace) -> RefinementTrace:
        dispatcher.event(RefinementEvent.of(trace))
        return trace

    def _get_prompts(self) -> PromptDictType:
        return {"judge_prompt": self.judge.prompt.template} if isinstance(self.judge, RelevanceJudge) else {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if "judge_prompt" in prompts and isinstance(self.judge, RelevanceJudge):
            self.judge.prompt = Prompt(self.judge.prompt.name, prompts["judge_prompt"])


class _State:
    """What is known so far about one query; lives as long as its course."""

    def __init__(
        self,
        query: QueryBundle,
        vector: npt.NDArray[np.float32],
        plain: list[NodeWithScore],
        watch: Stopwatch,
    ) -> None:
        self.query = query
        self.vector = vector
        self.plain = plain
        self.watch = watch
        self.pool: Candidates | None = None
        self.judgements: list[JudgedNode] = []
        self.usage = Usage()
        self.trouble: str | None = None
        self.teacher_trouble: str | None = None

    def record(self, nodes: Sequence[BaseNode], said: Judgements, number: int) -> None:
        self.judgements += [
            JudgedNode(node.node_id, float(value), source, number)
            for node, value, source in zip(nodes, said.relevance, said.sources, strict=True)
        ]
        self.usage = self.usage + said.usage
        self.teacher_trouble = self.teacher_trouble or said.trouble
        self.trouble = self.trouble or said.trouble

    def changed(self, nodes: list[NodeWithScore], vector: npt.NDArray[np.float32], angle: float) -> RefinementTrace:
        return self._trace(nodes, vector, angle, changed=True, reason="")

    def unchanged(self, reason: str, *, trouble: str | None = None) -> RefinementTrace:
        self.trouble = trouble or self.trouble
        return self._trace(self.plain, self.vector, 0.0, changed=False, reason=reason)

    def _trace(
        self,
        nodes: list[NodeWithScore],
        vector: npt.NDArray[np.float32],
        angle: float,
        *,
        changed: bool,
        reason: str,
    ) -> RefinementTrace:
        return RefinementTrace(
            query=self.query.query_str,
            nodes=nodes,
            plain_nodes=self.plain,
            judgements=tuple(self.judgements),
            query_vector=self.vector,
            refined_vector=vector,
            angle=angle,
            changed=changed,
            reason=reason,
            trouble=self.trouble,
            usage=self.usage,
            ms=dict(self.watch.ms),
        )


def _as_retriever(retriever: Any, index: Any) -> BaseRetriever:
    if (retriever is None) == (index is None):
        raise ConfigurationError("expected a retriever or an index, and not both: RefinementRetriever(index, llm=...)")
    inner = retriever if index is None else index
    if isinstance(inner, BaseIndex):
        inner = inner.as_retriever()
    if not isinstance(inner, BaseRetriever):
        raise ConfigurationError(f"retriever: expected a LlamaIndex retriever or index, found {type(inner).__name__}")
    mode = getattr(inner, "_vector_store_query_mode", None)
    if mode in _UNSUPPORTED_MODES:
        raise ConfigurationError(
            f"retriever: query mode {mode.value!r} does not rank by one dense vector; use 'default' or 'hybrid'"
        )
    return inner


def _as_given_judge(llm: LLM | None, judge: Any, task: str) -> Judge:
    if (llm is None) == (judge is None):
        raise ConfigurationError("expected llm=... or judge=..., and not both")
    if judge is not None and task:
        raise ConfigurationError("task: goes with llm=...; give a judge its own: RelevanceJudge(llm, task=...)")
    return as_judge(llm if judge is None else judge, task=task)


def _check_settings(judged: int, rounds: int, candidates: int, judge_deadline: float | None, on_error: str) -> None:
    if judged < 2:
        raise ConfigurationError(f"judged: expected 2 or more, found {judged}")
    if not 1 <= rounds <= judged:
        raise ConfigurationError(f"rounds: expected 1 to judged={judged}, found {rounds}")
    if candidates < judged:
        raise ConfigurationError(f"candidates: expected at least judged={judged}, found {candidates}")
    if judge_deadline is not None and not judge_deadline > 0.0:
        raise ConfigurationError(f"judge_deadline: expected seconds above 0 or None, found {judge_deadline}")
    if on_error not in ("plain", "raise"):
        raise ConfigurationError(f"on_error: expected 'plain' or 'raise', found {on_error!r}")


def _as_bundle(query: QueryType) -> QueryBundle:
    bundle = QueryBundle(query) if isinstance(query, str) else query
    if not bundle.query_str.strip():
        raise ConfigurationError("query: expected some text, found an empty string")
    return bundle


def _checked_vector(embedding: Sequence[float]) -> npt.NDArray[np.float32]:
    vector = np.asarray(embedding, dtype=np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0.0:
        raise ConfigurationError(f"query embedding: expected finite numbers and a norm above 0, found norm {norm}")
    return vector


def _with_embedding(query: QueryBundle, embedding: list[float]) -> QueryBundle:
    return QueryBundle(
        query_str=query.query_str,
        image_path=query.image_path,
        custom_embedding_strs=query.custom_embedding_strs,
        embedding=embedding,
    )


def _pinned(nodes: list[NodeWithScore], state: _State, refined: npt.NDArray[np.float32]) -> list[NodeWithScore]:
    """Return the judged-relevant nodes first, then the others, each group by score and as many as before."""
    assert state.pool is not None
    relevant = {judged.node_id for judged in state.judgements if judged.relevance >= 0.5}
    scored = {hit.node.node_id: hit for hit in nodes}
    for node, vector in zip(state.pool.nodes, state.pool.vectors, strict=True):
        if node.node_id in relevant and node.node_id not in scored:
            score = float(vector @ refined / np.linalg.norm(vector))
            scored[node.node_id] = NodeWithScore(node=node, score=score)
    ranked = sorted(scored.values(), key=lambda hit: (hit.node.node_id not in relevant, -(hit.score or 0.0)))
    return ranked[: len(nodes)]


def _warn(reason: str) -> None:
    warnings.warn(f"query refinement: {reason}", InstructWarning, stacklevel=2)
