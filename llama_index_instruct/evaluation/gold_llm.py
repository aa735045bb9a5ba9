"""An LLM that answers from relevance judgements, in the words each peer asks for; nobody is really asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback
from pydantic import PrivateAttr

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.chat_llm import ChatOnlyLLM, chat_response
from llama_index_instruct.teacher.prompts import quotable
from llama_index_instruct.teacher.usage import Usage

# A passage is known by so many of its first characters: judges cut long ones.
KEY_CHARS = 2000
CHARS_PER_TOKEN = 4
RATING = 10


@dataclass(frozen=True)
class PromptForm:
    """One way of asking.

    Attributes:
        marker: Words that only this form has.
        question: Finds the query, its first group.
        passages: Prompt -> the passages in it.
        answer: One verdict per passage -> the reply; None = the reply is a relevant passage.
    """

    marker: str
    question: re.Pattern[str]
    passages: Callable[[str], list[str]]
    answer: Callable[[list[bool]], str] | None


def _quoted(prompt: str) -> list[str]:
    found = re.search(r"(==[0-9a-f]+==)\n(.*)\n\1", prompt, re.DOTALL)
    return [found.group(2)] if found else []


def _numbered(prompt: str) -> list[str]:
    listed = prompt.partition("Let's try this now:")[2].rpartition("Question:")[0]
    return re.split(r"(?:^|\n)\s*Document \d+:\s*\n", listed)[1:]


def _yes_or_no(verdicts: list[bool]) -> str:
    return "yes" if verdicts[0] else "no"


def _lines(verdicts: list[bool]) -> str:
    return "\n".join(f"Doc: {place}, Relevance: {RATING}" for place, yes in enumerate(verdicts, start=1) if yes)


def _json(verdicts: list[bool]) -> str:
    chosen = [{"document_number": n, "relevance": RATING} for n, yes in enumerate(verdicts, start=1) if yes]
    return json.dumps({"documents": chosen})


_LISTED_QUESTION = re.compile(r".*\nQuestion: (.*?)\n+\s*Answer:", re.DOTALL)
# The first whose marker is in the prompt is taken: StructuredLLMRerank's prompt has LLMRerank's words in it.
FORMS = {
    "RelevanceJudge": PromptForm(
        "Passage, quoted between two marks",
        re.compile(r"Search request: (.*?)\n(?:What counts as satisfying it: |Passage, quoted)", re.DOTALL),
        _quoted,
        _yes_or_no,
    ),
    "StructuredLLMRerank": PromptForm("Here's a JSON schema to follow", _LISTED_QUESTION, _numbered, _json),
    "LLMRerank": PromptForm("Let's try this now:", _LISTED_QUESTION, _numbered, _lines),
    "HyDEQueryTransform": PromptForm(
        "Please write a passage to answer the question",
        re.compile(r"key details as possible\.\n\s*(.*?)\s*\nPassage:", re.DOTALL),
        lambda _: [],
        None,
    ),
}


class GoldLLM(ChatOnlyLLM):
    """Judges by relevance judgements, or writes a relevant passage where a passage is to be written.

    It reads the prompt as an LLM would: which form it has, what is asked, which passages are shown. A share of its verdicts
    may be turned over; which ones depends on seed, query and passage only, so every peer gets the same wrong answers.

    Attributes:
        flip: Share of verdicts turned over.
        seed: Of the turned ones.
        delay: Seconds an answer takes.
        token_delay: Seconds more per token of the answer.
    """

    flip: float = 0.0
    seed: int = 0
    delay: float = 0.0
    token_delay: float = 0.0
    _relevant: dict[str, dict[str, str]] = PrivateAttr()
    _known: frozenset[str] = PrivateAttr()
    _spent: Usage = PrivateAttr(default_factory=Usage)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _in_flight: int = PrivateAttr(default=0)
    _longest: float = PrivateAttr(default=0.0)
    _waited: float = PrivateAttr(default=0.0)

    def __init__(self, relevant: Mapping[str, Sequence[str]], passages: Sequence[str], **settings: Any) -> None:
        """Take the judgements.

        Args:
            relevant: Query -> texts of its relevant passages, at least one.
            passages: Every text that may be asked about.
            settings: The attributes.
        """
        super().__init__(**settings)
        self._relevant = {_key(query): {_key(text): text for text in texts} for query, texts in relevant.items()}
        self._known = frozenset(map(_key, passages))

    @property
    def metadata(self) -> LLMMetadata:
        """Return what LlamaIndex wants to know of a model."""
        return LLMMetadata(is_chat_model=True, model_name="gold")

    @property
    def spent(self) -> Usage:
        """Return calls and tokens so far; a token is taken to be four characters."""
        return self._spent

    @property
    def waited(self) -> float:
        """Return the seconds waited for answers so far; those outstanding together count once, as the longest."""
        return self._waited

    def reply(self, prompt: str) -> str:
        """Return the answer to one prompt.

        Raises:
            ConfigurationError: If the prompt has no known form, or asks about a query or passage that was not given.
        """
        form = next((form for form in FORMS.values() if form.marker in prompt), None)
        asked = form and form.question.search(prompt)
        if form is None or not asked or _key(asked.group(1)) not in self._relevant:
            raise ConfigurationError(
                f"prompt: expected one of {', '.join(FORMS)} about a known query, found {prompt!r}"
            )
        query = _key(asked.group(1))
        if form.answer is None:
            return next(iter(self._relevant[query].values()))
        return form.answer([self._verdict(query, _key(passage)) for passage in form.passages(prompt)])

    def _verdict(self, query: str, passage: str) -> bool:
        if passage not in self._known:
            raise ConfigurationError(f"prompt: expected a passage of the collection, found {passage[:200]!r}")
        digest = hashlib.sha256(f"{self.seed}\x1f{query}\x1f{passage}".encode()).digest()
        turned = int.from_bytes(digest[:8], "big") < self.flip * 2**64
        return (passage in self._relevant[query]) != turned

    def _answered(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        prompt = "\n".join(message.content or "" for message in messages)
        reply = self.reply(prompt)
        usage = Usage(calls=1, prompt_tokens=_tokens(prompt), completion_tokens=_tokens(reply))
        with self._lock:
            self._spent = self._spent + usage
        return chat_response(reply)

    @contextmanager
    def _outstanding(self, seconds: float) -> Iterator[None]:
        """Count answers that are outstanding together as the longest of them, whatever else the machine is doing."""
        with self._lock:
            self._in_flight += 1
            self._longest = max(self._longest, seconds)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1
                if self._in_flight == 0:
                    self._waited += self._longest
                    self._longest = 0.0

    def _seconds(self, response: ChatResponse) -> float:
        return self.delay + self.token_delay * _tokens(response.message.content or "")

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        """Answer, holding the thread as long as an endpoint would."""
        response = self._answered(messages)
        with self._outstanding(self._seconds(response)):
            time.sleep(self._seconds(response))
        return response

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        """Answer as late as an endpoint would, holding nothing."""
        response = self._answered(messages)
        with self._outstanding(self._seconds(response)):
            await asyncio.sleep(self._seconds(response))
        return response


def _key(text: str) -> str:
    return " ".join(quotable(text, KEY_CHARS).split())


def _tokens(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)
