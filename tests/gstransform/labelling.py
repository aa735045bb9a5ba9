"""An LLM that labels by rule, and misbehaves as told."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, MessageRole
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from pydantic import Field, PrivateAttr

from llama_index_instruct.teacher import asking

MOODS = ("angry", "happy", "calm")
QUOTED = re.compile(r"(==[0-9a-f]{12}==)\n(.*?)\n\1", re.DOTALL)
STYLES = (str.lower, str.upper, str.title, "'{}'".format, "{}.".format)


class Call(NamedTuple):
    kind: str
    text: str
    prompt: str

    @property
    def key(self) -> tuple[str, ...]:
        """The question as asked, but for the random marks."""
        return (self.kind, re.sub(r"==[0-9a-f]{12}==", "", self.prompt))


class StatusError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"sk-secret {status}")
        self.status_code = status


def luck(*words: str) -> float:
    """The same number from 0 to 1 for the same words."""
    return int.from_bytes(hashlib.sha256("|".join(words).encode()).digest()[:8], "big") / 2**64


def mood_of(text: str) -> str | None:
    return next((mood for mood in MOODS if mood in text.casefold()), None)


def quoted(prompt: str) -> list[str]:
    return [text for _, text in QUOTED.findall(prompt)]


class LabellingLLM(CustomLLM):
    """Sums up, names and classifies texts by the mood they mention; keeps every call."""

    model: str = "labeller"
    refusing: float = 0.0
    inventing: float = 0.0
    healing: float = 1.0
    outage: Any = range(0)
    dies_at: int = 10**9
    # (kind, text) -> an error to raise, an answer, or None
    rule: Any = None
    usage: Any = None
    calls: list[Any] = Field(default_factory=list)
    answered: list[Any] = Field(default_factory=list)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, model_name=self.model)

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        prompt = messages[-1].content
        call = Call(_kind(prompt), quoted(prompt)[0], prompt)
        with self._lock:
            number = len(self.calls)
            self.calls.append(call)
        if number >= self.dies_at:
            raise KeyboardInterrupt
        if number in self.outage:
            raise ConnectionError(f"sk-secret down while asked about {call.text}")
        content = self._answer(call)
        with self._lock:
            self.answered.append(call)
        raw = None if self.usage is None else {"usage": self.usage}
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=content), raw=raw)

    def _answer(self, call: Call) -> str:
        kind, text, prompt = call
        ruled = None if self.rule is None else self.rule(kind, text)
        if isinstance(ruled, BaseException):
            raise ruled
        if ruled is not None:
            return ruled
        if kind in ("summarise", "classify") and luck("refuse", kind, text) < self.refusing:
            return "I'm sorry, but I can't help with that."
        if kind == "summarise":
            return f"Summary: the writer is {mood_of(text)} about {text.split()[2:3]}"
        if kind == "name_cluster":
            mood = Counter(filter(None, map(mood_of, text.splitlines()))).most_common(1)[0][0]
            return f"Category: {STYLES[int(luck(text) * len(STYLES))](mood)}"
        invents = luck("invent", text) < self.inventing
        if invents and (kind == "classify" or luck("heal", text) >= self.healing):
            return "Classification: something else"
        listed = prompt.split("one per line:\n")[1].split("\n\nA text")[0].splitlines()
        return f"Classification: {next((name for name in listed if mood_of(name) == mood_of(text)), 'none')}"

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise AssertionError("a chat model is asked by chat")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise AssertionError("never streamed")

    def kinds(self) -> Counter[str]:
        return Counter(call.kind for call in self.calls)


def _kind(prompt: str) -> str:
    # What is asked stands behind the last quotation.
    asked = prompt[prompt.rindex("==") :]
    if "Summary:" in asked:
        return "summarise"
    if "Category:" in asked:
        return "name_cluster"
    return "classify_again" if "An earlier answer" in asked else "classify"


def without_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no question wait; returns the pauses of outages."""
    pauses: list[float] = []
    monkeypatch.setattr(asking, "sleep_using_event", lambda event: lambda seconds: None)
    monkeypatch.setattr(asking, "time", SimpleNamespace(sleep=pauses.append))
    return pauses
