"""Many questions with free-text answers to any LlamaIndex LLM: concurrency, retries, budget, answers kept, usage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llama_index.core.llms.llm import LLM
from tenacity import Retrying, stop_when_event_set
from tenacity.nap import sleep_using_event

from llama_index_instruct.errors import ConfigurationError, TeacherError
from llama_index_instruct.spans import Count, span
from llama_index_instruct.teacher.answers import AnswerFile, answer_key
from llama_index_instruct.teacher.attempts import Attempts, may_heal, retry_policy, start_own_trace
from llama_index_instruct.teacher.calls import (
    BudgetSpentError,
    NotStartedError,
    Result,
    Slots,
    is_configuration_failure,
    run_calls,
)
from llama_index_instruct.teacher.prompts import Prompt
from llama_index_instruct.teacher.usage import Budget, Usage, usage_of_response

CHARACTERS_PER_TOKEN = 4
# More failures than this are an outage, worth waiting for its end.
OUTAGE_SHARE = 0.02
# After so many of these without a single answer the request itself is wrong, and not a text, as for a content filter.
REFUSALS_IN_A_ROW = 3
ABOUT_ONE_TEXT = frozenset({400, 413, 422})


class QuestionRefusedError(TeacherError):
    """The provider refused this one question; asking again cannot help."""


@dataclass(frozen=True)
class Question:
    """One question to the LLM.

    Attributes:
        prompt: Its words.
        fields: A value per variable of the prompt.
        sample: Tells repetitions of one question apart, whose answers are drawn anew; for askers with a temperature.
    """

    prompt: Prompt
    fields: dict[str, str]
    sample: int = 0

    @property
    def tokens(self) -> int:
        """Return about how many tokens the question has."""
        written = self.prompt.messages(**self.fields)
        return sum(len(message.content or "") for message in written) // CHARACTERS_PER_TOKEN


@dataclass(frozen=True)
class Answers:
    """What became of questions.

    Attributes:
        texts: Per question the answer, or None if there is none.
        errors: Per question why there is none, or None.
        usage: What it cost.
    """

    texts: tuple[str | None, ...]
    errors: tuple[Exception | None, ...]
    usage: Usage

    @property
    def counts(self) -> dict[str, Count]:
        """Return how many answers there are and what they cost, for traces."""
        return {"answered": sum(text is not None for text in self.texts), **self.usage.counts}


class Asker:
    """Asks an LLM many questions and returns the answers in order.

    Args:
        llm: Any LlamaIndex LLM. Its own ``max_tokens``, if set, beats ours.
        workers: Calls at a time.
        retries: Calls made again, with growing pauses, after a failure that may heal. The LlamaIndex OpenAI classes retry too.
        patience: Seconds to wait, in growing pauses, for calls that keep failing, as in an outage, before they are given up.
        max_tokens: Longest answer asked for, in tokens.
        temperature: Given to the LLM with every question; None leaves it to the LLM's own setting.
        budget: Stops the run when used up.
        answers: Where answers are kept and looked up.
        show_progress: Show a progress bar per run.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        workers: int = 20,
        retries: int = 4,
        patience: float = 120.0,
        max_tokens: int = 48,
        temperature: float | None = None,
        budget: Budget | None = None,
        answers: AnswerFile | None = None,
        show_progress: bool = False,
    ) -> None:
        for name, value, least in (("retries", retries, 0), ("max_tokens", max_tokens, 1)):
            if value < least:
                raise ConfigurationError(f"{name}: expected {least} or more, found {value}")
        self.llm = llm
        if not patience >= 0:
            raise ConfigurationError(f"patience: expected 0 or more seconds, found {patience}")
        self.retries = retries
        self.patience = patience
        self.temperature = temperature
        self._settings: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            self._settings["temperature"] = temperature
        self.budget = budget or Budget()
        self.answers = answers if answers is not None else AnswerFile(None)
        self.show_progress = show_progress
        self._slots = Slots(workers)
        self._answered = False
        self._refused = 0
        self._lock = threading.Lock()

    def known(self, questions: Sequence[Question]) -> list[str | None]:
        """Return the answers kept from before, None for the rest."""
        return [self.answers.get(self._key(question)) for question in questions]

    def ask(self, questions: Sequence[Question], *, label: str) -> Answers:
        """Return the answers; those kept from before cost nothing.

        Calls that failed are made again after a pause, when an outage may be over. A refused request (key, model) and an empty
        budget stop the run; a request refused for one text only, as by a content filter, does not.

        Args:
            questions: What to ask; the same question twice is asked once.
            label: Of the progress bar, and of the span in traces.
        """
        with span(f"Asker.{label.replace(' ', '_')}", questions=len(questions)) as counts:
            answers = self._ask(questions, label)
            counts |= answers.counts
        return answers

    def _ask(self, questions: Sequence[Question], label: str) -> Answers:
        keys = [self._key(question) for question in questions]
        first = dict(zip(keys, questions, strict=True))
        before = sum(self.answers.get(key) is not None for key in keys)
        failed, usage = self._run(first, label)
        usage += Usage(cached=before)
        for pause in _pauses(self.patience):
            healing = [
                key for key, error in failed.items() if may_heal(error) and not isinstance(error, QuestionRefusedError)
            ]
            final = any(isinstance(e, BudgetSpentError) or is_configuration_failure(e) for e in failed.values())
            # A few that never succeed are no outage.
            if final or len(healing) <= OUTAGE_SHARE * len(first):
                break
            time.sleep(pause)
            again, used = self._run({key: first[key] for key in healing}, label)
            failed = {key: error for key, error in failed.items() if key not in healing} | again
            usage += used
        usage += Usage(failures=sum(key in failed for key in keys))
        return Answers(tuple(self.answers.get(key) for key in keys), tuple(failed.get(key) for key in keys), usage)

    def _run(self, wanted: Mapping[str, Question], label: str) -> tuple[dict[str, Exception], Usage]:
        """Ask what is not yet known; return the failures, and what it cost."""
        questions = {key: question for key, question in wanted.items() if self.answers.get(key) is None}
        attempts = {key: Attempts() for key in questions}
        stopped = threading.Event()
        results: list[Result[Usage]] = run_calls(
            [partial(self._ask_one, question, key, attempts[key], stopped) for key, question in questions.items()],
            self._slots,
            progress=label if self.show_progress else None,
            stopped=stopped,
        )
        failed: dict[str, Exception] = {}
        usage = Usage(
            calls=sum(tried.calls for tried in attempts.values()), retries=sum(t.retries for t in attempts.values())
        )
        for key, result in zip(questions, results, strict=True):
            if result.value is not None:
                usage += result.value
            else:
                failed[key] = result.error or NotStartedError("the run had stopped")
        return failed, usage

    def _ask_one(self, question: Question, key: str, attempts: Attempts, stopped: threading.Event) -> Usage:
        policy = retry_policy(self.retries, attempts)
        policy["stop"] |= stop_when_event_set(stopped)
        try:
            for attempt in Retrying(**policy, sleep=sleep_using_event(stopped)):
                if stopped.is_set():
                    raise NotStartedError("the run had stopped")
                with attempt:
                    text, usage = self._request(question, attempts)
        except Exception as error:
            if getattr(error, "status_code", None) in ABOUT_ONE_TEXT and self._is_about_one_text():
                raise QuestionRefusedError(f"the provider refused one text ({type(error).__name__})") from error
            raise
        self._answered = True
        self.answers.put(key, text)
        return usage

    def _request(self, question: Question, attempts: Attempts) -> tuple[str, Usage]:
        if not self.budget.reserve():
            raise BudgetSpentError("the budget is used up")
        self.budget.charge(Usage(calls=1))
        attempts.calls += 1
        start_own_trace(self.llm)
        messages = question.prompt.messages(**question.fields)
        response: Any
        if self.llm.metadata.is_chat_model:
            response = self.llm.chat(messages, **self._settings)
            text = response.message.content or ""
        else:
            assert self.llm.messages_to_prompt is not None  # pydantic fills it in
            response = self.llm.complete(self.llm.messages_to_prompt(messages), **self._settings)
            text = response.text or ""
        usage = usage_of_response(response)
        self.budget.charge(usage if not usage.unmetered else _guessed(question, text))
        return text, usage

    def _is_about_one_text(self) -> bool:
        """Return whether a refusal is to be blamed on the text: others were answered, or it is among the first refusals."""
        with self._lock:
            self._refused += 1
            return self._answered or self._refused < REFUSALS_IN_A_ROW

    def _key(self, question: Question) -> str:
        values = [value for _, value in sorted(question.fields.items())]
        if self.temperature is not None:
            values += [f"temperature {self.temperature}", f"sample {question.sample}"]
        return answer_key(self.llm.metadata.model_name, question.prompt.version, values)


def _guessed(question: Question, answer: str) -> Usage:
    return Usage(prompt_tokens=question.tokens, completion_tokens=len(answer) // CHARACTERS_PER_TOKEN, unmetered=1)


def _pauses(patience: float) -> Iterator[float]:
    """Yield pauses of 5, 10, 20, 40, 60, 60 ... seconds that add up to no more than the patience."""
    pause = 5.0
    while patience > 0:
        yield min(pause, patience)
        patience -= pause
        pause = min(2 * pause, 60.0)
