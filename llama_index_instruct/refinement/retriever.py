"""RefinementRetriever: any LlamaIndex retriever, its query vector moved by a few judgements, searched again."""

from __future__ import annotations

import copy
from typing import Any, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.indices.base import BaseIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryMode

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.queries import as_bundle, as_inner_retriever
from llama_index_instruct.refinement.course import CourseSettings, refinement_course
from llama_index_instruct.refinement.course_steps import Embed, FetchVectors, ReadWords, Search, Step, counts_of
from llama_index_instruct.refinement.selection import TRUSTED_SELECTION, SelectionSettings
from llama_index_instruct.refinement.settings import TRUSTED_JUDGE, Method, make_settings
from llama_index_instruct.refinement.trace import RefinementEvent, RefinementTrace
from llama_index_instruct.refinement.words import load_vectorizer
from llama_index_instruct.spans import Count, span
from llama_index_instruct.steps import arun_course, run_course
from llama_index_instruct.teacher.calls import run_in_daemon_thread
from llama_index_instruct.teacher.judge import RelevanceJudge
from llama_index_instruct.teacher.prompts import Prompt
from llama_index_instruct.teacher.standins import Judge, as_judge
from llama_index_instruct.vectors import astored_vectors, stored_vectors

dispatcher = get_dispatcher(__name__)


class RefinementRetriever(BaseRetriever):
    """Wraps a retriever: judge a few of its hits, move the query vector accordingly, search again.

    Unless ``pin_judged``, the order and the scores come from the store, searched with the moved vector: a passage that fools
    the teacher lifts itself only as far as the vector moves. Trouble in judging, solving or searching again gives the unrefined
    ranking with one ``InstructWarning``; trouble in embedding or in the first search is the original exception. Words that
    cannot be read are left out with a warning, unless ``on_error="raise"``.

    Traces show a span ``RefinementRetriever.refine`` with a ``RefinementEvent``, and below it one per stage: embed, search,
    vectors, words, select, judge, solve, search_again.

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
        candidates: Hits to choose them from, vectors included; so many are fetched where the query is dense, and no more are
            weighed. With over 1,000 no words are read.
        lexical: Let ``logistic`` weigh the words of the query and the candidates along with their vectors: the first five
            thousand characters of what is embedded of a node, metadata included. The store is searched with a vector all the
            same.
        trusted_judge: Say that the judge is hardly ever wrong. Then ``logistic`` takes every answer in full, and the first
            round looks around too; ``method_settings`` and ``selection`` of yours come first. Better with right answers,
            harmful with wrong ones: see ``estimate_judge_error``.
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
        candidates: int = 200,
        lexical: bool = True,
        trusted_judge: bool = False,
        judge_deadline: float | None = 10.0,
        pin_judged: bool = False,
        on_error: Literal["plain", "raise"] = "plain",
        vector_store: BasePydanticVectorStore | None = None,
        embed_model: BaseEmbedding | None = None,
        encode_missing: bool = False,
    ) -> None:
        inner = as_inner_retriever(retriever, index, usage="RefinementRetriever(index, llm=...)")
        _check_settings(judged, rounds, candidates, judge_deadline, on_error)
        make_settings(method, method_settings or {})
        super().__init__(callback_manager=inner.callback_manager)
        self.retriever = inner
        self.judge = _as_given_judge(llm, judge, task)
        self.judged = judged
        self.rounds = rounds
        self.method: Method = method
        self.trusted_judge = trusted_judge
        self.method_settings = dict(method_settings or {})
        self.selection = selection or (TRUSTED_SELECTION if trusted_judge else SelectionSettings())
        self.candidates = candidates
        self.lexical = lexical
        self.judge_deadline = judge_deadline
        self.pin_judged = pin_judged
        self.on_error: Literal["plain", "raise"] = on_error
        self.vector_store = vector_store or getattr(inner, "_vector_store", None)
        self.embed_model = embed_model or getattr(inner, "_embed_model", None)
        self.encode_missing = encode_missing
        if self.embed_model is None:
            raise ConfigurationError(
                f"embed_model: {type(inner).__name__} carries none; give RefinementRetriever(..., embed_model=...) the model "
                "that made the stored vectors"
            )
        if lexical and method == "logistic":
            # Now, not during the first query.
            load_vectorizer()

    def refine(self, query: QueryType) -> RefinementTrace:
        """Return the refined ranking of a query with everything that led to it.

        Raises:
            ConfigurationError: If the query is empty or its vector is zero or not finite; before any search.
            RefinementError: If an optional stage fails and ``on_error="raise"``.
        """
        with span("RefinementRetriever.refine") as counts:
            trace = run_course(refinement_course(as_bundle(query), self._settings()), self._perform)
            counts |= _told(trace)
        return trace

    async def arefine(self, query: QueryType) -> RefinementTrace:
        """Asynchronous twin of ``refine``."""
        with span("RefinementRetriever.refine") as counts:
            trace = await arun_course(refinement_course(as_bundle(query), self._settings()), self._aperform)
            counts |= _told(trace)
        return trace

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.refine(query_bundle).nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return (await self.arefine(query_bundle)).nodes

    def _perform(self, step: Step) -> Any:
        with span(f"RefinementRetriever.{step.stage}") as counts:
            result = self._result(step)
            counts |= counts_of(step, result)
        return result

    async def _aperform(self, step: Step) -> Any:
        with span(f"RefinementRetriever.{step.stage}") as counts:
            result = await self._aresult(step)
            counts |= counts_of(step, result)
        return result

    def _result(self, step: Step) -> Any:
        if isinstance(step, Embed):
            if step.query.embedding is not None:
                return step.query.embedding
            return self._embedder.get_agg_embedding_from_queries(step.query.embedding_strs)
        if isinstance(step, Search):
            return self._inner(step.wide).retrieve(step.query)
        if isinstance(step, FetchVectors):
            return stored_vectors(step.nodes, self.vector_store, embed_model=self._encoder)
        if isinstance(step, ReadWords):
            return step.perform()
        return self.judge.assess(step.query, step.nodes, deadline=step.deadline)

    async def _aresult(self, step: Step) -> Any:
        if isinstance(step, Embed):
            if step.query.embedding is not None:
                return step.query.embedding
            return await self._embedder.aget_agg_embedding_from_queries(step.query.embedding_strs)
        if isinstance(step, Search):
            return await self._inner(step.wide).aretrieve(step.query)
        if isinstance(step, FetchVectors):
            return await astored_vectors(step.nodes, self.vector_store, embed_model=self._encoder)
        if isinstance(step, ReadWords):
            # Long passages take some time, which other tasks of the loop need not wait for.
            return await run_in_daemon_thread(lambda _: step.perform())
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

    def _settings(self) -> CourseSettings:
        mode = getattr(self.retriever, "_vector_store_query_mode", None)
        presets = TRUSTED_JUDGE if self.trusted_judge and self.method == "logistic" else {}
        return CourseSettings(
            judged=self.judged,
            rounds=self.rounds,
            method=self.method,
            method_settings={**presets, **self.method_settings},
            selection=self.selection,
            # The published methods stay as they were published.
            lexical=self.lexical and self.method == "logistic",
            candidates=self.candidates,
            judge_deadline=self.judge_deadline,
            pin_judged=self.pin_judged,
            on_error=self.on_error,
            # Only a dense search is widened, so only its hits have to be cut again.
            top_k=getattr(self.retriever, "similarity_top_k", None) if mode == VectorStoreQueryMode.DEFAULT else None,
        )

    def _get_prompts(self) -> PromptDictType:
        return {"judge_prompt": self.judge.prompt.template} if isinstance(self.judge, RelevanceJudge) else {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if "judge_prompt" in prompts and isinstance(self.judge, RelevanceJudge):
            self.judge.prompt = Prompt(self.judge.prompt.name, prompts["judge_prompt"])


def _told(trace: RefinementTrace) -> dict[str, Count]:
    event = RefinementEvent.of(trace)
    dispatcher.event(event)
    names = ("changed", "angle", "judgements", "calls", "tokens")
    return {name: getattr(event, name) for name in names}


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
