"""Whatever can score passages, in the LLM judge's place: a LlamaIndex reranker, a cross-encoder, any callable."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from llama_index.core.llms.llm import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError, JudgementTimeout
from llama_index_instruct.spans import span
from llama_index_instruct.teacher.calls import TOO_LATE, Slots, run_calls, run_in_daemon_thread
from llama_index_instruct.teacher.judge import Judgements, RelevanceJudge
from llama_index_instruct.teacher.usage import Usage

FloatArray = npt.NDArray[np.float64]
ScoreFunction = Callable[[str, list[str]], Sequence[float] | Awaitable[Sequence[float]]]


@runtime_checkable
class Judge(Protocol):
    """Anything that can say how relevant nodes are; ``RelevanceJudge`` is one."""

    def assess(self, query: str, nodes: Sequence[BaseNode], *, deadline: float | None = None) -> Judgements:
        """Return the relevance of k nodes, done by ``deadline`` (``time.monotonic()``)."""

    async def aassess(self, query: str, nodes: Sequence[BaseNode], *, deadline: float | None = None) -> Judgements:
        """Asynchronous twin of ``assess``."""


def as_judge(judge: Any, *, task: str = "") -> Judge:
    """Return a judge made of an LLM, a LlamaIndex node postprocessor, a callable, or a judge.

    Args:
        judge: An ``LLM``; a ``BaseNodePostprocessor`` that scores (set its ``top_n`` to at least the number judged: what it
            drops counts as irrelevant); a callable ``(query, passages) -> scores``, synchronous or not; or a ``Judge``.
        task: What counts as relevant; used with an LLM.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(judge, LLM):
        return RelevanceJudge(judge, task=task)
    if isinstance(judge, BaseNodePostprocessor):
        return PostprocessorJudge(judge)
    if isinstance(judge, Judge):
        return judge
    if callable(judge):
        return CallableJudge(judge)
    raise ConfigurationError(
        f"judge: expected an LLM, a node postprocessor, a callable (query, passages) -> scores or a RelevanceJudge, "
        f"found {type(judge).__name__}"
    )


class _ScoringJudge:
    """Runs one blocking or asynchronous scoring call under a deadline."""

    def __init__(self, rating: float | None) -> None:
        if rating is not None and not rating > 0.0:
            raise ConfigurationError(f"rating: expected a number above 0 or None, found {rating}")
        self.rating = rating
        self._slots = Slots(8)

    def assess(self, query: str, nodes: Sequence[BaseNode], *, deadline: float | None = None) -> Judgements:
        with span(f"{type(self).__name__}.assess", passages=len(nodes)) as counts:
            (result,) = run_calls([lambda: self._scores(query, nodes)], self._slots, deadline=deadline)
            if result.error is not None:
                raise result.error
            said = self._judgements(result.value, len(nodes))
            counts |= said.counts
        return said

    async def aassess(self, query: str, nodes: Sequence[BaseNode], *, deadline: float | None = None) -> Judgements:
        with span(f"{type(self).__name__}.assess", passages=len(nodes)) as counts:
            said = self._judgements(await self._in_time(self._ascores(query, nodes, deadline), deadline), len(nodes))
            counts |= said.counts
        return said

    async def _in_time(self, pending: Awaitable[Any], deadline: float | None) -> Any:
        if deadline is None:
            return await pending
        try:
            return await asyncio.wait_for(pending, max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError as error:
            raise JudgementTimeout(TOO_LATE) from error

    def _judgements(self, scores: Any, count: int) -> Judgements:
        relevance = to_relevance(scores, self.rating)
        if relevance.shape != (count,):
            raise DimensionMismatchError(f"judge: expected {count} scores, found shape {relevance.shape}")
        return Judgements(
            relevance=relevance,
            sources=tuple("none" if np.isnan(value) else "score" for value in relevance),
            usage=Usage(calls=1, unmetered=1, failures=int(np.isnan(relevance).sum())),
        )

    def _scores(self, query: str, nodes: Sequence[BaseNode]) -> Any:
        raise NotImplementedError

    async def _ascores(self, query: str, nodes: Sequence[BaseNode], deadline: float | None) -> Any:
        raise NotImplementedError


class PostprocessorJudge(_ScoringJudge):
    """A LlamaIndex node postprocessor, such as a cross-encoder or LLM reranker, as judge.

    It gets copies of the nodes, since some rerankers write into what they are given. Nodes that it drops score lowest.

    Args:
        postprocessor: Any ``BaseNodePostprocessor`` that sets scores.
        rating: The best possible score, if it rates; known for LlamaIndex's own LLM rerankers. See ``to_relevance``.
    """

    def __init__(self, postprocessor: BaseNodePostprocessor, *, rating: float | None = None) -> None:
        if rating is None and type(postprocessor).__name__ in ("LLMRerank", "StructuredLLMRerank"):
            rating = 10.0
        super().__init__(rating)
        self.postprocessor = postprocessor

    def _scores(self, query: str, nodes: Sequence[BaseNode]) -> FloatArray:
        kept = self.postprocessor.postprocess_nodes(_copies(nodes), query_bundle=QueryBundle(query))
        return _scores_by_node(nodes, kept)

    async def _ascores(self, query: str, nodes: Sequence[BaseNode], deadline: float | None) -> FloatArray:
        default = inspect.unwrap(BaseNodePostprocessor._apostprocess_nodes)
        if inspect.unwrap(type(self.postprocessor)._apostprocess_nodes) is default:
            # LlamaIndex would run it in the loop's own small pool, which a hung reranker keeps from closing.
            return await run_in_daemon_thread(lambda _: self._scores(query, nodes), deadline=deadline)
        kept = await self.postprocessor.apostprocess_nodes(_copies(nodes), query_bundle=QueryBundle(query))
        return _scores_by_node(nodes, kept)


class CallableJudge(_ScoringJudge):
    """A function ``(query, passages) -> scores`` as judge; NaN = no judgement.

    Args:
        function: Synchronous or asynchronous; gets the texts of k passages and returns k numbers.
        metadata_mode: Which metadata stands in the texts.
        rating: The best possible score, if it rates; see ``to_relevance``.
    """

    def __init__(
        self,
        function: ScoreFunction,
        *,
        metadata_mode: MetadataMode = MetadataMode.NONE,
        rating: float | None = None,
    ) -> None:
        super().__init__(rating)
        self.function = function
        self.metadata_mode = metadata_mode

    def _scores(self, query: str, nodes: Sequence[BaseNode]) -> Any:
        scores = self.function(query, self._texts(nodes))
        # In its own thread, where no event loop runs.
        return asyncio.run(_awaited(scores)) if inspect.isawaitable(scores) else scores

    async def _ascores(self, query: str, nodes: Sequence[BaseNode], deadline: float | None) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(query, self._texts(nodes))

        def scores(_: threading.Event) -> Any:
            return self._scores(query, nodes)

        return await run_in_daemon_thread(scores, deadline=deadline)

    def _texts(self, nodes: Sequence[BaseNode]) -> list[str]:
        return [node.get_content(self.metadata_mode) for node in nodes]


async def _awaited(scores: Awaitable[Any]) -> Any:
    return await scores


def to_relevance(scores: npt.ArrayLike, rating: float | None = None) -> FloatArray:
    """Return scores of any scale as relevance in [0, 1].

    Args:
        scores: Shape (k,), NaN = no judgement; infinite ones are none either.
        rating: The best possible rating, where they are ratings from 0 on: they are divided by it. None = scores inside
            [0, 1] stay, and any other are taken for logits, as cross-encoders give them.

    Example:
        >>> to_relevance([10.0, 5.0, float("nan")], rating=10.0)
        array([1. , 0.5, nan])
        >>> to_relevance([0.0, 1e9, -1e9, 2.0]).round(2)
        array([0.5 , 1.  , 0.  , 0.88])
    """
    values = np.array(scores, dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    if rating is not None:
        return np.clip(values / rating, 0.0, 1.0)
    known = values[~np.isnan(values)]
    if known.size == 0 or (known.min() >= 0.0 and known.max() <= 1.0):
        return values
    return sigmoid(values)


def _copies(nodes: Sequence[BaseNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node.model_copy(), score=0.0) for node in nodes]


def _scores_by_node(nodes: Sequence[BaseNode], kept: Sequence[NodeWithScore]) -> FloatArray:
    by_id = {hit.node.node_id: float(hit.score) for hit in kept if hit.score is not None}
    dropped = min([0.0, *by_id.values()])
    return np.array([by_id.get(node.node_id, dropped) for node in nodes], dtype=np.float64)
