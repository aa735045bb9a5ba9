"""A teacher and a Qdrant on one loopback port; each request may be given a fault of its own."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fakes import FakeOpenAI, FakeQdrant, quoted_passage, serving

Mode = Callable[[str, int], str]
"""What is asked, and how often it was asked before -> "ok" or the name of a fault."""

SECRET = "sk-secret"
FAILURE = {"error": {"message": f"{SECRET} failed", "type": "x"}, "status": {"error": f"{SECRET} failed"}}
REPLIES: dict[str, tuple[int, Any, dict[str, str]]] = {
    "429 bare": (429, FAILURE, {}),
    "429 later": (429, FAILURE, {"retry-after": "300"}),
    "500": (500, FAILURE, {}),
    "html": (200, b"<html>busy</html>", {"content-type": "text/html"}),
}


def fine(what: str, before: int) -> str:
    return "ok"


def faulty(faults: dict[tuple[str, int], str]) -> Mode:
    """These faults at these requests, such as ``("query", 1)`` for the second search."""
    return lambda what, before: faults.get((what, before), "ok")


class FaultyServer:
    """Judges by ``furious`` under ``/v1``, and stores everywhere else.

    ``judging`` is asked for the fault of a passage, ``storing`` for that of an operation: query, fetch, scroll, count, write or
    describe. ``passages`` and ``operations`` are what was asked, in order.
    """

    def __init__(self) -> None:
        self.judging: Mode = fine
        self.storing: Mode = fine
        self.qdrant = FakeQdrant()
        self.released = threading.Event()
        self.url = ""
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Count from here on."""
        with self._lock:
            self.passages: list[str] = []
            self.operations: list[str] = []
            self._before: Counter[str] = Counter()
        self.qdrant.log.clear()

    def respond(self, handler: Any, body: bytes) -> None:
        judging = handler.path.startswith("/v1/")
        what = quoted_passage(json.loads(body)["messages"][-1]["content"]) if judging else _operation(handler)
        with self._lock:
            before = self._before[what]
            self._before[what] += 1
            (self.passages if judging else self.operations).append(what)
        mode = (self.judging if judging else self.storing)(what, before)
        if mode in REPLIES:
            handler.reply(*REPLIES[mode])
        elif mode in ("hang", "closed", "cut"):
            self._break_off(handler, mode)
        elif judging:
            _teacher(mode).respond(handler, body)
        else:
            assert mode == "ok", mode
            self.qdrant.respond(handler, body)

    def _break_off(self, handler: Any, mode: str) -> None:
        if mode == "hang":
            self.released.wait(60)
        elif mode == "cut":
            handler.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"')
        handler.close_connection = True


class _Refusing(FakeOpenAI):
    def _choice(self, p: float, mode: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        return {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}


def _teacher(mode: str) -> FakeOpenAI:
    teacher = (_Refusing if mode == "refusal" else FakeOpenAI)(lambda passage: 0.9 if "furious" in passage else 0.1)
    teacher.mode = mode
    return teacher


def _operation(handler: Any) -> str:
    _, points, rest = handler.path.split("?")[0].partition("/points")
    if not points:
        return "describe"
    return rest.strip("/") or ("write" if handler.command == "PUT" else "fetch")


def closed_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    with serving(server.respond) as url:
        server.url = url
        yield server
        server.released.set()
    server.qdrant.local.close()
