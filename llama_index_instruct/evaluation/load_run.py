"""Thousands of refined retrieves, sync and async at once, with a judge that keeps failing: what leaks, what is lost."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_instruct.evaluation.numbers import QUERY, DelayedJudge, even, numbered_documents
from llama_index_instruct.evaluation.process import process_state
from llama_index_instruct.refinement.retriever import RefinementRetriever
from llama_index_instruct.teacher.judge import RelevanceJudge
from llama_index_instruct.teacher.standins import CallableJudge, Judge

# Queries that differ; each comes many times.
QUERIES = 50
# The in-process Qdrant repeats its scores to seven digits only.
SCORE_ERROR = 1e-6
# Threads that have done their work end a moment later.
PATIENCE = 5.0


class Faults:
    """Lets a share of all calls fail: exact in number, evenly spread, from any thread.

    Args:
        rate: Share of the calls, in [0, 1].
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.calls = 0
        self.failed = 0
        self._lock = threading.Lock()

    def strike(self) -> None:
        """Count a call.

        Raises:
            ConnectionError: If it is one of those that fail.
        """
        with self._lock:
            self.calls += 1
            fails = int(self.calls * self.rate) > self.failed
            self.failed += fails
        if fails:
            raise ConnectionError("one of the failures of this run")


class FailingJudge(DelayedJudge):
    """A ``DelayedJudge`` some of whose calls fail; a refined retrieve survives a few of them."""

    strike: Callable[[], None]

    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        """Fail or answer."""
        self.strike()
        response: ChatResponse = super().chat(messages)
        return response

    async def achat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        """Fail or answer."""
        self.strike()
        response: ChatResponse = await super().achat(messages)
        return response


class FailingFunction:
    """Judges all passages in one call; if that fails, the retrieve is to give the plain ranking.

    Args:
        faults: Which calls fail.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.failed: set[str] = set()

    def __call__(self, query: str, passages: list[str]) -> list[float]:
        """Return 1 for passages with an even number."""
        try:
            self.faults.strike()
        except ConnectionError:
            self.failed.add(query)
            raise
        return even(query, passages)


@dataclass
class Findings:
    """What came out, counted against what a plain retriever gives.

    Attributes:
        lost: Hits fewer than the plain retriever returns.
        duplicated: Hits that came twice.
        refined: Retrieves whose ranking differs from the plain one.
        unlike_plain: Retrieves whose judge failed, and whose ranking differs from the plain one all the same.
        errors: Retrieves that raised, by exception.
        warnings: Warnings, by category.
    """

    lost: int = 0
    duplicated: int = 0
    refined: int = 0
    unlike_plain: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def look_at(self, hits: Sequence[NodeWithScore], plain: Sequence[NodeWithScore], *, judge_failed: bool) -> None:
        """Take down one result."""
        distinct = {hit.node.node_id for hit in hits}
        self.lost += max(0, len(plain) - len(distinct))
        self.duplicated += len(hits) - len(distinct)
        differs = not _same(hits, plain)
        self.refined += differs
        self.unlike_plain += differs and judge_failed

    def warn(self, _: Warning | str, category: type[Warning], *__: Any) -> None:
        """Stand in for ``warnings.showwarning``."""
        self.warnings[category.__name__] += 1


def run_load(
    *,
    retrieves: int = 10_000,
    failure_rate: float = 0.02,
    delay: float = 0.0,
    documents: int = 2_000,
    dimension: int = 64,
    judged: int = 20,
    rounds: int = 2,
    at_once: int = 8,
    points: int = 5,
) -> dict[str, Any]:
    """Return what many refined retrieves on an in-process Qdrant lost, warned of and left behind.

    A quarter each: synchronous and asynchronous, with an LLM (one call per passage; one that fails costs one judgement) and
    with a function (one call per round; one that fails costs the refinement: plain ranking, one warning).

    Args:
        retrieves: In all.
        failure_rate: Share of the judge's calls that fail.
        delay: Seconds per call of the LLM.
        documents: Random vectors in the collection.
        dimension: Their size.
        judged: Judgements per query.
        rounds: Rounds they are spread over.
        at_once: Synchronous retrieves at the same time, and as many asynchronous ones.
        points: Times that the process is looked at, after the first: evenly spread, nothing under way.

    Returns:
        A record. ``points``: see ``process_state``; ``growth``: from the second point, when all is warm, to the last.
    """
    settings = {
        "retrieves": retrieves,
        "failure_rate": failure_rate,
        "delay": delay,
        "documents": documents,
        "dimension": dimension,
        "judged": judged,
        "rounds": rounds,
        "at_once": at_once,
    }
    return {"bench": "load", "settings": settings, **asyncio.run(_run(settings, points))}


async def _run(settings: dict[str, Any], points: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    size, count, at_once = settings["dimension"], settings["retrieves"], settings["at_once"]
    by_llm, by_function = Faults(settings["failure_rate"]), Faults(settings["failure_rate"])
    function = FailingFunction(by_function)
    findings = Findings()
    gates = [asyncio.Semaphore(at_once), asyncio.Semaphore(at_once)]
    async with numbered_documents(settings["documents"], size, rng) as (plain, aplain), _started_pool(at_once) as pool:
        vectors = rng.normal(size=(QUERIES, size)).tolist()
        rankings = [plain.retrieve(QueryBundle(QUERY, embedding=vector)) for vector in vectors]
        # As ``Settings.llm`` has it. One of its own would remember every call made inside another's trace (LlamaIndex's doing):
        # 85 bytes each, for ever.
        llm = FailingJudge(delay=settings["delay"], strike=by_llm.strike, callback_manager=plain.callback_manager)
        judges: list[Judge] = [RelevanceJudge(llm), CallableJudge(function)]
        # No deadline: a machine that is busy with other things is no failure of the judge.
        limits: dict[str, Any] = {"judged": settings["judged"], "rounds": settings["rounds"], "judge_deadline": None}
        # Even retrieves are synchronous, odd ones asynchronous; every second pair of them asks the function.
        doors: list[BaseRetriever] = [
            RefinementRetriever(inner, judge=judge, **limits) for judge in judges for inner in (plain, aplain)
        ]

        async def retrieve(number: int) -> None:
            query = QueryBundle(f"{QUERY}, retrieve {number}", embedding=vectors[number % QUERIES])
            door = doors[number % len(doors)]
            async with gates[number % 2]:
                try:
                    if number % 2:
                        hits = await door.aretrieve(query)
                    else:
                        hits = await asyncio.get_running_loop().run_in_executor(pool, door.retrieve, query)
                except Exception as error:
                    findings.errors[type(error).__name__] += 1
                    return
            findings.look_at(hits, rankings[number % QUERIES], judge_failed=query.query_str in function.failed)

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = findings.warn  # type: ignore[assignment]  # called with positions only
            start = time.perf_counter()
            seen = [{"retrieves": 0, **process_state()}]
            for point in range(points):
                numbers = range(count * point // points, count * (point + 1) // points)
                await asyncio.gather(*map(retrieve, numbers))
                await _until_quiet(seen[-1]["threads"] if point else None)
                seen.append({"retrieves": numbers.stop, **process_state()})
            seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 1),
        "calls": {"llm": by_llm.calls, "function": by_function.calls},
        "failed_calls": {"llm": by_llm.failed, "function": by_function.failed},
        "refined": findings.refined,
        "fallbacks": len(function.failed),
        "fallbacks_unlike_plain": findings.unlike_plain,
        "lost": findings.lost,
        "duplicated": findings.duplicated,
        "errors": dict(findings.errors),
        "warnings": dict(findings.warnings),
        "points": seen,
        "growth": {name: _difference(seen[1][name], seen[-1][name]) for name in seen[0] if name != "retrieves"},
    }


@asynccontextmanager
async def _started_pool(threads: int) -> AsyncIterator[ThreadPoolExecutor]:
    """Yield a pool all of whose threads run: left to itself it starts them one by one, which looks like a leak."""
    with ThreadPoolExecutor(threads) as pool:
        everyone = threading.Barrier(threads)
        list(pool.map(lambda _: everyone.wait(), range(threads)))
        yield pool


async def _until_quiet(threads: float | None) -> None:
    """Wait until there are no more threads than that; None = no matter how many."""
    deadline = time.monotonic() + PATIENCE
    # The step that follows a gather still holds all its tasks: end it.
    await asyncio.sleep(0)
    while threads is not None and threading.active_count() > threads and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


def _same(hits: Sequence[NodeWithScore], others: Sequence[NodeWithScore]) -> bool:
    if [hit.node.node_id for hit in hits] != [hit.node.node_id for hit in others]:
        return False
    return all(abs(hit.get_score() - other.get_score()) <= SCORE_ERROR for hit, other in zip(hits, others, strict=True))


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 1)
