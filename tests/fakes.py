"""Deterministic stand-ins: an LLM that judges by rule, a bag-of-words embedder, an OpenAI and a Qdrant server on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    LogProb,
    MessageRole,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from pydantic import Field, PrivateAttr, TypeAdapter

DIMENSION = 64


class WordEmbedding(BaseEmbedding):
    """Sum of fixed random vectors, one per word: texts that share words are similar."""

    model_name: str = "words"
    calls: int = 0

    def _vector(self, text: str) -> list[float]:
        self.calls += 1
        total = np.zeros(DIMENSION)
        for word in re.findall(r"\w+", text.lower()):
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
            total += np.random.default_rng(seed).normal(size=DIMENSION)
        norm = np.linalg.norm(total)
        return (total / norm if norm else total).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vector(text)


QUOTED = re.compile(r"(==[0-9a-f]{12}==)\n(.*)\n\1", re.DOTALL)


def quoted_passage(prompt: str) -> str:
    """Return what stands between the marks of a judge prompt."""
    match = QUOTED.search(prompt)
    assert match, prompt
    return match.group(2)


class ScriptedLLM(CustomLLM):
    """Answers by a rule: passage -> probability of yes, a text, or an exception to raise."""

    rule: Any = None
    latency: float = 0.0
    with_logprobs: bool = True
    prompts: list[str] = Field(default_factory=list)
    options: list[dict[str, Any]] = Field(default_factory=list)
    most_at_once: int = 0
    _now: int = PrivateAttr(default=0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, model_name="scripted")

    def _enter(self, messages: list[ChatMessage], options: dict[str, Any]) -> str:
        prompt = "\n".join(m.content or "" for m in messages)
        with self._lock:
            self.prompts.append(prompt)
            self.options.append(options)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        return prompt

    def _leave(self) -> None:
        with self._lock:
            self._now -= 1

    def _answer(self, prompt: str) -> ChatResponse:
        verdict = self.rule(quoted_passage(prompt))
        if isinstance(verdict, Exception):
            raise verdict
        if isinstance(verdict, str):
            return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=verdict))
        p = min(max(float(verdict), 1e-6), 1 - 1e-6)
        logprobs = [[LogProb(token="Yes", logprob=np.log(p)), LogProb(token=" no", logprob=np.log(1 - p))]]
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, content="yes" if p >= 0.5 else "no"),
            logprobs=logprobs if self.with_logprobs else None,
            raw={"usage": {"prompt_tokens": 100, "completion_tokens": 1}},
        )

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        prompt = self._enter(messages, kwargs)
        try:
            time.sleep(self.latency)
            return self._answer(prompt)
        finally:
            self._leave()

    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        prompt = self._enter(messages, kwargs)
        try:
            await asyncio.sleep(self.latency)
            return self._answer(prompt)
        finally:
            self._leave()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise AssertionError("a chat model is asked by chat")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise AssertionError("never streamed")


class BlockingLLM(CustomLLM):
    """A completion model without any async of its own, as many local ones are."""

    rule: Any = None
    latency: float = 0.0

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=False, model_name="blocking")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        time.sleep(self.latency)
        return CompletionResponse(text=self.rule(quoted_passage(prompt)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise AssertionError("never streamed")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _dispatch(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.respond(self, body)  # type: ignore[attr-defined]

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _dispatch

    def reply(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(respond: Callable[[_Handler, bytes], None]) -> Iterator[str]:
    """Serve on loopback while inside; yields the base URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.respond = respond  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(2)


class FakeOpenAI:
    """An OpenAI-style chat endpoint; ``mode`` decides how it misbehaves."""

    def __init__(self, rule: Callable[[str], float] | None = None) -> None:
        self.rule = rule or (lambda passage: 0.9)
        self.mode = "ok"
        self.requests: list[dict[str, Any]] = []
        self.hang = 30.0
        self.released = threading.Event()

    def respond(self, handler: _Handler, body: bytes) -> None:
        request = json.loads(body)
        self.requests.append(request)
        mode = self.mode
        if mode == "hang":
            self.released.wait(self.hang)
            handler.close_connection = True
            return
        if mode in ("400", "401", "429", "500"):
            headers = {"retry-after": "0.01"} if mode == "429" else None
            handler.reply(int(mode), {"error": {"message": f"sk-secret {mode}", "type": "x"}}, headers)
            return
        if mode == "html":
            handler.reply(200, b"<html>busy</html>", {"content-type": "text/html"})
            return
        if mode == "bad json":
            handler.reply(200, b'{"choices": [')
            return
        if mode == "no choices":
            handler.reply(200, {**self._envelope(), "choices": []})
            return
        if mode == "error 200":
            handler.reply(200, {"error": {"message": "overloaded"}})
            return
        p = self.rule(quoted_passage(request["messages"][-1]["content"]))
        handler.reply(200, {**self._envelope(), "choices": [self._choice(p, mode)]})

    def _envelope(self) -> dict[str, Any]:
        usage = {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}

    def _choice(self, p: float, mode: str) -> dict[str, Any]:
        p = min(max(p, 1e-6), 1 - 1e-6)
        content: str | None = {"empty": "", "null": None, "prose": "It depends on the reader."}.get(
            mode, "Yes" if p >= 0.5 else "No"
        )
        top = [{"token": t, "logprob": float(np.log(v)), "bytes": None} for t, v in (("Yes", p), ("No", 1 - p))]
        position = {**top[0 if p >= 0.5 else 1], "top_logprobs": top}
        return {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": content},
            "logprobs": {"content": [position]} if mode == "ok" else None,
        }


class FakeQdrant:
    """The Qdrant REST wire, executed on ``QdrantClient(":memory:")``; one lock around every request."""

    def __init__(self) -> None:
        from qdrant_client import QdrantClient

        self.local = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.log: list[tuple[str, str, dict[str, Any]]] = []
        self.fail_after: int | None = None
        self.fault: Callable[[str, str, dict[str, Any]], bool] | None = None  # whether to answer this request with 500
        self.indexes: dict[str, dict[str, Any]] = {}

    def respond(self, handler: _Handler, body: bytes) -> None:
        path = handler.path.split("?")[0]
        payload = json.loads(body) if body else {}
        with self.lock:
            self.log.append((handler.command, path, payload))
            if self.fail_after is not None and len(self.log) > self.fail_after:
                handler.reply(500, {"status": {"error": "the disk is full"}, "time": 0.0})
                return
            if self.fault is not None and self.fault(handler.command, path, payload):
                handler.reply(500, {"status": {"error": "a passing fault"}, "time": 0.0})
                return
            try:
                result = self._run(handler.command, path, payload)
            except KeyError as error:
                handler.reply(404, {"status": {"error": str(error)}, "time": 0.0})
                return
            except Exception as error:
                status = 404 if "not found" in str(error) else 400
                handler.reply(status, {"status": {"error": str(error)}, "time": 0.0})
                return
        if path == "/":
            handler.reply(200, {"title": "qdrant", "version": "1.17.0"})
            return
        handler.reply(200, {"result": result, "status": "ok", "time": 0.0})

    def _run(self, command: str, path: str, payload: dict[str, Any]) -> Any:
        from qdrant_client import models as m

        parts = path.strip("/").split("/")
        if parts == [""]:
            return {}
        if parts == ["aliases"]:
            return self.local.get_aliases().model_dump(mode="json")
        name, rest = parts[1], "/".join(parts[2:])
        if command == "GET" and rest == "exists":
            return {"exists": self.local.collection_exists(name)}
        if command == "GET":
            described = self.local.get_collection(name).model_dump(mode="json")
            described["payload_schema"] = self.indexes.get(name, {})
            return described
        if command == "POST" and parts == ["collections", "aliases"]:
            return self.local.update_collection_aliases(m.ChangeAliasesOperation(**payload).actions)
        if command == "PATCH" and not rest:
            return self.local.update_collection(name, metadata=m.UpdateCollection(**payload).metadata)
        if command == "PUT" and rest.startswith("vectors/"):
            wanted_vector = TypeAdapter(m.VectorNameConfig).validate_python(payload)
            self.local.create_vector_name(name, parts[3], wanted_vector)
            return {"operation_id": 0, "status": "completed"}
        if command == "PUT" and rest == "points/vectors":
            self.local.update_vectors(name, m.UpdateVectors(**payload).points)
            return {"operation_id": 0, "status": "completed"}
        if rest == "points/count":
            return {"count": int(self.local.count(name, m.CountRequest(**payload).filter).count)}
        if rest == "points/scroll":
            return self._scroll(name, m.ScrollRequest(**payload))
        if command == "PUT" and not rest:
            wanted = m.CreateCollection(**payload)
            return self.local.create_collection(
                name,
                vectors_config=wanted.vectors,
                sparse_vectors_config=wanted.sparse_vectors,
                metadata=wanted.metadata,
            )
        if command == "PUT" and rest == "index":
            field = m.CreateFieldIndex(**payload)
            kind = payload["field_schema"]
            described = {"data_type": kind} if isinstance(kind, str) else {"data_type": kind["type"], "params": kind}
            self.indexes.setdefault(name, {})[field.field_name] = {**described, "points": 0}
            return {"operation_id": 0, "status": "completed"}
        if command == "PUT" and rest == "points":
            self.local.upsert(name, m.PointsList(**payload).points)
            return {"operation_id": 0, "status": "completed"}
        if rest == "points":
            wanted_points = m.PointRequest(**payload)
            points = self.local.retrieve(
                name,
                wanted_points.ids,
                with_payload=bool(wanted_points.with_payload),
                with_vectors=wanted_points.with_vector,
            )
            return [point.model_dump(mode="json") for point in points]
        if rest == "points/query":
            return self._query(name, m.QueryRequest(**payload))
        if rest == "points/query/batch":
            return [self._query(name, request) for request in m.QueryRequestBatch(**payload).searches]
        raise KeyError(f"{command} {path}")

    def _scroll(self, name: str, wanted: Any) -> dict[str, Any]:
        points, following = self.local.scroll(
            name,
            scroll_filter=wanted.filter,
            limit=wanted.limit or 10,
            offset=wanted.offset,
            with_payload=True if wanted.with_payload is None else wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )
        return {"points": [point.model_dump(mode="json") for point in points], "next_page_offset": following}

    def _query(self, name: str, q: Any) -> dict[str, Any]:
        from qdrant_client import models as m

        query = q.query.nearest if isinstance(q.query, m.NearestQuery) else q.query
        response = self.local.query_points(
            name,
            query=query,
            using=q.using,
            prefetch=q.prefetch,
            query_filter=q.filter,
            limit=q.limit or 10,
            with_payload=True if q.with_payload is None else q.with_payload,
            with_vectors=q.with_vector or False,
        )
        return response.model_dump(mode="json")
