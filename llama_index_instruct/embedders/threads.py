"""Model work beside the event loop, which ends at the next batch when nobody waits for it any longer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_gone: ContextVar[threading.Event | None] = ContextVar("gone", default=None)


class NoLongerWantedError(Exception):
    """Ends work in a thread whose caller was cancelled; nobody sees it."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run model work in a thread; once the caller is cancelled, ``check_wanted`` ends it."""
    gone = threading.Event()

    def work() -> T:
        _gone.set(gone)  # the thread has a copy of the context to itself
        return function(*args, **kwargs)

    try:
        return await asyncio.to_thread(work)
    finally:
        gone.set()


def check_wanted() -> None:
    """Raise a ``NoLongerWantedError`` if the caller of this thread has gone."""
    gone = _gone.get()
    if gone is not None and gone.is_set():
        raise NoLongerWantedError
