"""What our doors do, told to whoever traces LlamaIndex: spans with counts and milliseconds, never a text or a key.

LlamaIndex's own decorator would hand the arguments and the result to every handler, and with them texts; here a handler gets
counts in their place. The active span is kept where LlamaIndex keeps it, so that spans nest in its spans and its in ours.
"""

from __future__ import annotations

import inspect
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Token
from typing import Any, TypeVar

from llama_index.core.instrumentation import DISPATCHER_SPAN_DECORATED_ATTR, get_dispatcher
from llama_index.core.instrumentation.dispatcher import active_instrument_tags
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.instrumentation.span import active_span_id

dispatcher = get_dispatcher(__name__)
M = TypeVar("M", bound=Callable[..., Any])
Count = bool | int | float | str
"""A number; or a word that is our own, such as the name of a method or of an exception."""


class StageEvent(BaseEvent):
    """LlamaIndex instrumentation event at the end of each span of this package; counts only, no text.

    Attributes:
        stage: Name of the span, such as ``"RelevanceJudge.assess"``.
        counts: What went in and what came out.
        ms: Milliseconds it took.
        error: Name of the exception that ended it; empty if none did.
    """

    stage: str
    counts: dict[str, Any]  # not validated: a count of an odd type must not stop a door
    ms: float
    error: str

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the event in traces."""
        return "StageEvent"


class UntoldError(Exception):
    """Stands in traces for an exception whose message may hold a text or a key; the exception itself is raised as it is."""


@contextmanager
def span(stage: str, /, **counts: Count) -> Iterator[dict[str, Count]]:
    """Open a span below the active one; it becomes the active one.

    Never around a ``yield``: a generator may be resumed, or closed, where another span is active.

    Args:
        stage: Name of the span.
        counts: What goes in, for the handlers' arguments.

    Yields:
        These counts, to be filled with what comes out, for the handlers' result and for a ``StageEvent``.
    """
    told = dict(counts)
    span_id = f"{stage}-{uuid.uuid4()}"
    arguments = inspect.BoundArguments(inspect.Signature(), OrderedDict(counts))
    token = active_span_id.set(span_id)
    parent = None if token.old_value is Token.MISSING else token.old_value
    dispatcher.span_enter(span_id, arguments, parent_id=parent, tags=active_instrument_tags.get())
    start = time.perf_counter()
    try:
        yield told
    except BaseException as error:
        name = type(error).__name__
        _tell(stage, told, start, error=name)
        dispatcher.span_drop(span_id, arguments, err=UntoldError(name))
        raise
    else:
        _tell(stage, told, start)
        dispatcher.span_exit(span_id, arguments, result=told)
    finally:
        active_span_id.reset(token)


def within_the_span_of_its_base(method: M) -> M:
    """Mark an override that only surrounds the base's method: LlamaIndex would open a second span of the same name for it."""
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


def _tell(stage: str, counts: dict[str, Count], start: float, error: str = "") -> None:
    dispatcher.event(StageEvent(stage=stage, counts=counts, ms=1000.0 * (time.perf_counter() - start), error=error))
