"""Answers already paid for, on disk: one JSON line each, appended as they come in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# fsync after so many answers: what a power cut can lose; a killed process loses nothing.
SYNC_EVERY = 50


def answer_key(model: str, prompt_version: str, fields: Iterable[str]) -> str:
    """Return the key of one question: who was asked, in which words, about what."""
    return hashlib.sha256("\x1f".join((model, prompt_version, *fields)).encode("utf-8", "replace")).hexdigest()[:32]


class AnswerFile:
    """A mapping from questions to answers that survives being killed.

    A line cut short by a kill is dropped when the file is opened again. One process at a time.

    Args:
        path: The file; created with its folder. None = keep the answers in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._answers: dict[str, str] = {}
        self._lock = threading.Lock()
        self._unsynced = 0
        self._file: Any = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            payload = path.read_bytes()
            whole = payload.rfind(b"\n") + 1
            for line in payload[:whole].split(b"\n"):
                self._read(line)
            if whole < len(payload):
                os.truncate(path, whole)
        self._file = path.open("ab")
        self._closer = weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> str | None:
        """Return the answer to a question, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; safe to call from several threads."""
        with self._lock:
            self._answers[key] = answer
            if self._file is None:
                return
            self._file.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")
            self._file.flush()
            self._unsynced += 1
            if self._unsynced >= SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._unsynced = 0

    def close(self) -> None:
        """Write everything through and close the file."""
        with self._lock:
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._file = None

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, line: bytes) -> None:
        # A damaged line costs its own answer and no other.
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
            row = json.loads(line)
            self._answers[str(row["key"])] = str(row["answer"])
