"""Query + passages -> relevance in [0, 1] or "no judgement": the LLM judge."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from tenacity import AsyncRetrying, Retrying, stop_when_event_set
from tenacity.nap import sleep_using_event

from llama_index_instruct.errors import ConfigurationError, JudgementTimeout
from llama_index_instruct.spans import Count, span
from llama_index_instruct.teacher.attempts import Attempts, retry_policy, speaks_async, start_own_trace
from llama_index_instruct.teacher.calls import (
    BudgetSpentError,
    NotStartedError,
    Result,
    Slots,
    arun_calls,
    is_configuration_failure,
    run_calls,
    run_in_daemon_thread,
)
from llama_index_instruct.teacher.prompts import RELEVANCE_JUDGE, Prompt, quotable
from llama_index_instruct.teacher.replies import UNREADABLE, relevance_of
from llama_index_instruct.teacher.usage import Budget, Usage, usage_of_response

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judgements:
    """What a teacher said about k passages.

    Attributes:
        relevance: Shape (k,), float64, in [0, 1]; NaN = no judgement.
        sources: Per passage ``"logprobs"``, ``"text"``, ``"score"``, ``"cache"``, or why there is none.
        usage: What it cost.
        trouble: Why some judgements are missing, in words without any text or key; None if none is.
    """

    relevance: FloatArray
    sources: tuple[str, ...]
    usage: Usage
    trouble: str | None = None

    @property
    def counts(self) -> dict[str, Count]:
        """Return how many judgements there are, what they cost and the trouble, for traces."""
        judged = int(np.count_nonzero(~np.isnan(self.relevance)))
        return {"judged": judged, **self.usage.counts, "trouble": self.trouble or ""}


@dataclass(frozen=True)
class _Reply:
    relevance: float | None
    source: str
    tokens: Usage


class RelevanceJudge:
    """Asks any LlamaIndex LLM, passage by passage, whether it satisfies the query.

    One call per passage, so a passage can only speak about itself; probabilities of yes and no where the LLM gives them,
    else its words. A failed, refused or unreadable answer is "no judgement" (NaN), never a "no". Traces show each run as a span
    ``RelevanceJudge.assess`` with counts and tokens, the LLM's calls below it.

    Args:
        llm: Any LlamaIndex LLM. Its own ``max_tokens``, if set, beats ours: leave it unset for one-word answers.
        task: What counts as relevant, in a sentence; joined to every question. Empty = the query says it all.
        workers: Calls at a time, over all threads that share this judge. A call that hangs beyond the deadline keeps its place
            until it ends (synchronous calls cannot be cancelled), so give the LLM a timeout of its own.
        retries: Calls made again after a failure that may heal. The LlamaIndex OpenAI classes already retry: keep 0 there.
        max_tokens: Longest answer asked for, in tokens.
        max_chars: Longest passage, in characters; the rest is cut.
        metadata_mode: Which metadata of a node the LLM sees.
        budget: Stops the run when used up; may be shared between judges.
        cache: Any mutable mapping from str to float, such as a dict; keyed by model, prompt version, task, query and text.
        show_progress: Show a progress bar.
        prompt: The question; a new one gets a new version by itself.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        task: str = "",
        workers: int = 20,
        retries: int = 0,
        max_tokens: int = 4,
        max_chars: int = 6000,
        metadata_mode: MetadataMode = MetadataMode.NONE,
        budget: Budget | None = None,
        cache: MutableMapping[str, float] | None = None,
        show_progress: bool = False,
        prompt: Prompt = RELEVANCE_JUDGE,
    ) -> None:
        for name, value, least in (
            ("retries", retries, 0),
            ("max_tokens", max_tokens, 1),
            ("max_chars", max_chars, 1),
        ):
            if value < least:
                raise ConfigurationError(f"{name}: expected {least} or more, found {value}")
        self.llm = llm
        self.task = task
        self.retries = retries
        self.max_tokens = max_tokens
        self.max_chars = max_chars
        self.metadata_mode = metadata_mode
        self.budget = budget or Budget()
        self.cache = cache
        self.show_progress = show_progress
        self.prompt = prompt
        self._slots = Slots(workers)
        self._logprobs_refused = False

    @property
    def workers(self) -> int:
        """Return the largest number of calls at a time."""
        return self._slots.workers

    def judge(self, query: str, passages: Sequence[str]) -> FloatArray:
        """Return the relevance of each passage, shape (k,), in [0, 1]; NaN = no judgement."""
        return self.assess(query, [TextNode(text=text) for text in passages]).relevance

    async def ajudge(self, query: str, passages: Sequence[str]) -> FloatArray:
        """Asynchronous twin of ``judge``."""
        return (await self.aassess(query, [TextNode(text=text) for text in passages])).relevance

    def assess(self, query: str, nodes: Sequence[BaseNode], *, deadline: float | None = None) -> Judgements:
        """Return what the LLM says about each node, with its cost.

        Args:
            query: The search request.
            nodes: k nodes to be judged.
            deadline: ``time.monotonic()`` at which to return with what there is.
        """
        with span("RelevanceJudge.assess", passages=len(nodes)) as counts:
            said = self._assess(query, nodes, deadline, threading.Event())
            counts |= said.counts
        return said

    async def aassess(self, query: str, nodes: Sequence[BaseNode], *, deadline: float | None = None) -> Judgements:
        """Asynchronous twin of ``assess``; an LLM without an async call of its own runs in threads."""
        with span("RelevanceJudge.assess", passages=len(nodes)) as counts:
            said = await self._aassess(query, nodes, deadline)
            counts |= said.counts
        return said

    async def _aassess(self, query: str, nodes: Sequence[BaseNode], deadline: float | None) -> Judgements:
        if not speaks_async(self.llm):
            return await run_in_daemon_thread(
                lambda stopped: self._assess(query, nodes, deadline, stopped),
                # The run inside keeps the deadline and brings what it has: this is only the second line.
                deadline=None if deadline is None else deadline + 0.25,
            )
        asked = self._prepare(query, nodes)
        results = await arun_calls(
            [partial(self._aask, asked.query, asked.passages[i], asked.attempts[i]) for i in asked.open],
            self._slots,
            deadline=deadline,
            progress="judging" if self.show_progress else None,
        )
        return self._collect(asked, results)

    def _assess(
        self, query: str, nodes: Sequence[BaseNode], deadline: float | None, stopped: threading.Event
    ) -> Judgements:
        asked = self._prepare(query, nodes)
        results = run_calls(
            [partial(self._ask, asked.query, asked.passages[i], asked.attempts[i], stopped) for i in asked.open],
            self._slots,
            deadline=deadline,
            progress="judging" if self.show_progress else None,
            stopped=stopped,
        )
        return self._collect(asked, results)

    def _prepare(self, query: str, nodes: Sequence[BaseNode]) -> _Asked:
        query = quotable(query, self.max_chars)
        passages = [quotable(node.get_content(self.metadata_mode), self.max_chars) for node in nodes]
        keys: list[str] = []
        if self.cache is not None:
            question = "\x1f".join((self.llm.metadata.model_name, self.prompt.version, self.task, query))
            keys = [hashlib.sha256(f"{question}\x1f{passage}".encode()).hexdigest() for passage in passages]
        known = {i: self.cache[key] for i, key in enumerate(keys) if key in self.cache} if self.cache else {}
        return _Asked(query, passages, keys, known, [Attempts() for _ in passages])

    def _collect(self, asked: _Asked, results: Sequence[Result[_Reply]]) -> Judgements:
        relevance = np.full(len(asked.passages), np.nan)
        sources = [""] * len(relevance)
        usage = Usage(cached=len(asked.known))
        for i, value in asked.known.items():
            relevance[i], sources[i] = value, "cache"
        errors: list[Exception] = []
        for i, result in zip(asked.open, results, strict=True):
            attempts, reply = asked.attempts[i], result.value
            usage += Usage(calls=attempts.calls, retries=attempts.retries)
            if reply is None:
                error = result.error or NotStartedError("the run had stopped")
                errors.append(error)
                sources[i] = type(error).__name__
                usage += Usage(failures=1)
                continue
            usage += reply.tokens
            sources[i] = reply.source
            if reply.relevance is None:
                usage += Usage(failures=1)
                continue
            relevance[i] = reply.relevance
            if self.cache is not None:
                self.cache[asked.keys[i]] = reply.relevance
        unreadable = sources.count(UNREADABLE)
        trouble = describe_trouble(errors)
        if trouble is None and unreadable:
            trouble = f"unreadable: {unreadable} answers were neither a clear yes nor a clear no"
        return Judgements(relevance, tuple(sources), usage, trouble)

    def _ask(self, query: str, passage: str, attempts: Attempts, stopped: threading.Event) -> _Reply:
        policy = retry_policy(self.retries, attempts)
        policy["stop"] |= stop_when_event_set(stopped)
        for attempt in Retrying(**policy, sleep=sleep_using_event(stopped)):
            if stopped.is_set():
                raise NotStartedError("the run had stopped")
            with attempt:
                return self._reply(self._request(query, passage, attempts))
        raise AssertionError("unreachable: the retry policy re-raises")

    async def _aask(self, query: str, passage: str, attempts: Attempts) -> _Reply:
        async for attempt in AsyncRetrying(**retry_policy(self.retries, attempts)):
            with attempt:
                return self._reply(await self._arequest(query, passage, attempts))
        raise AssertionError("unreachable: the retry policy re-raises")

    def _request(self, query: str, passage: str, attempts: Attempts) -> Any:
        call, words = self._call_and_words("chat", "complete", query, passage)
        while True:
            options = self._options()
            self._reserve(attempts)
            start_own_trace(self.llm)
            try:
                return call(words, **options)
            except Exception as error:
                if not self._learnt_to_ask_without_logprobs(options, error):
                    raise

    async def _arequest(self, query: str, passage: str, attempts: Attempts) -> Any:
        call, words = self._call_and_words("achat", "acomplete", query, passage)
        while True:
            options = self._options()
            self._reserve(attempts)
            start_own_trace(self.llm)
            try:
                return await call(words, **options)
            except Exception as error:
                if not self._learnt_to_ask_without_logprobs(options, error):
                    raise

    def _learnt_to_ask_without_logprobs(self, options: dict[str, Any], error: Exception) -> bool:
        """Return whether this very request may be made again without log-probabilities, and remember it for the others."""
        if "logprobs" not in options or "logprob" not in str(error).lower():
            return False
        self._logprobs_refused = True
        return True

    def _reply(self, response: Any) -> _Reply:
        tokens = usage_of_response(response)
        self.budget.charge(tokens)
        return _Reply(*relevance_of(response), tokens=tokens)

    def _reserve(self, attempts: Attempts) -> None:
        if not self.budget.reserve():
            raise BudgetSpentError("the judge's budget is used up")
        self.budget.charge(Usage(calls=1))
        attempts.calls += 1

    def _call_and_words(self, chat: str, complete: str, query: str, passage: str) -> tuple[Any, Any]:
        task = f"What counts as satisfying it: {self.task}\n" if self.task else ""
        messages = self.prompt.messages(query=query, task=task, passage=passage)
        # Log-probabilities survive on the native path only: chat for chat models, complete for the others.
        if self.llm.metadata.is_chat_model:
            return getattr(self.llm, chat), messages
        assert self.llm.messages_to_prompt is not None  # pydantic fills it in
        return getattr(self.llm, complete), self.llm.messages_to_prompt(messages)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"max_tokens": self.max_tokens}
        if not self._logprobs_refused:
            # The completion API takes a number where the chat API takes a flag and a number.
            chat = {"logprobs": True, "top_logprobs": 20}
            options |= chat if self.llm.metadata.is_chat_model else {"logprobs": 5}
        return options


@dataclass(frozen=True)
class _Asked:
    """One run: the question, the passages, and what is known of them beforehand."""

    query: str
    passages: list[str]
    keys: list[str]
    known: dict[int, float]
    attempts: list[Attempts]

    @property
    def open(self) -> list[int]:
        return [i for i in range(len(self.passages)) if i not in self.known]


def describe_trouble(errors: Sequence[Exception]) -> str | None:
    """Return one line on why judgements are missing, without any text, URL or key of theirs."""
    if not errors:
        return None
    for error in errors:
        if is_configuration_failure(error):
            return f"configuration: the teacher refused the request ({type(error).__name__}); check key, model and endpoint"
    for error in errors:
        if isinstance(error, BudgetSpentError):
            return "budget: the judge's budget is used up"
    if any(isinstance(error, JudgementTimeout) for error in errors):
        return (
            f"deadline: {sum(isinstance(e, JudgementTimeout) for e in errors)} judgements were not in by the deadline"
        )
    return f"failure: {len(errors)} judgements failed, the first with {type(errors[0]).__name__}"


def seconds_from_now(seconds: float | None) -> float | None:
    """Return the ``time.monotonic()`` deadline that many seconds away; None stays None."""
    return None if seconds is None else time.monotonic() + seconds
