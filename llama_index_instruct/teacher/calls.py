"""Many calls out, their results back in order: concurrency, deadline, early stop, progress.

A synchronous run uses daemon threads, because a hung teacher must neither outlive the deadline nor keep the interpreter from
ending; an asynchronous run uses tasks, which are cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError, JudgementTimeout, TeacherError

T = TypeVar("T")

# Never counted as a failed call: the process is short of memory, or somebody wants it to stop.
FATAL = (MemoryError, KeyboardInterrupt, SystemExit, asyncio.CancelledError)
# The request itself is wrong (key, model name, parameters): asking again cannot heal it.
CONFIGURATION_STATUS = frozenset({400, 401, 403, 404, 405, 413, 422})
TOO_LATE = "the teacher was not done by the deadline; judge_deadline=... gives it more seconds, None all it takes"


class NotStartedError(TeacherError):
    """The call was not made: the run had stopped before its turn."""


class BudgetSpentError(TeacherError):
    """The call was not made: the budget is used up."""


@dataclass(frozen=True)
class Result(Generic[T]):
    """What became of one call: a value, or the error in its place."""

    value: T | None = None
    error: Exception | None = None


class Slots:
    """At most ``workers`` calls at a time, shared by all threads, and by all tasks of one event loop.

    Raises:
        ConfigurationError: If ``workers`` is not positive.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers: expected 1 or more, found {workers}")
        self.workers = workers
        self._threads = threading.BoundedSemaphore(workers)
        self._loops: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._lock = threading.Lock()

    @property
    def threads(self) -> threading.BoundedSemaphore:
        """Return the semaphore of the synchronous calls."""
        return self._threads

    def tasks(self) -> asyncio.Semaphore:
        """Return the semaphore of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            # A semaphore holds on to its loop: forget those that are over.
            self._loops = {known: held for known, held in self._loops.items() if not known.is_closed()}
            return self._loops.setdefault(loop, asyncio.Semaphore(self.workers))

    def __reduce__(self) -> tuple[type[Slots], tuple[int]]:
        return Slots, (self.workers,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Slots:
        return Slots(self.workers)


def is_configuration_failure(error: BaseException) -> bool:
    """Return whether a teacher's error says that the request itself is wrong."""
    status = getattr(error, "status_code", None)
    return status in CONFIGURATION_STATUS


def run_calls(
    calls: Sequence[Callable[[], T]],
    slots: Slots,
    *,
    deadline: float | None = None,
    progress: str | None = None,
    stopped: threading.Event | None = None,
) -> list[Result[T]]:
    """Run calls in threads and return their results in order.

    The run stops early, leaving the rest not started, when a call fails by configuration or finds the budget spent.

    Args:
        calls: Functions without arguments.
        slots: Bounds the calls that run at the same time.
        deadline: ``time.monotonic()`` at which to return with what there is.
        progress: Label of a progress bar, or None for no bar.
        stopped: Set by the caller to stop from outside; set here at the end.

    Returns:
        One result per call. Calls not done by the deadline hold ``JudgementTimeout``.
    """
    if deadline is not None and time.monotonic() >= deadline:
        return [_unfinished(late=True) for _ in calls]
    stop = stopped or threading.Event()
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    # A result, the reason to give up everything, or None: one thread has ended.
    done: queue.SimpleQueue[tuple[int, Result[T]] | BaseException | None] = queue.SimpleQueue()
    for index in range(len(calls)):
        todo.put(index)

    def work() -> None:
        try:
            while not stop.is_set():
                index = todo.get_nowait()
                while not slots.threads.acquire(timeout=0.05):
                    if stop.is_set():
                        return
                try:
                    if not stop.is_set():
                        done.put((index, Result(value=calls[index]())))
                except FATAL as fatal:
                    done.put(fatal)
                except Exception as error:
                    if _stops_the_run(error):
                        stop.set()
                    done.put((index, Result(error=error)))
                finally:
                    slots.threads.release()
        except queue.Empty:
            return
        finally:
            done.put(None)

    working = min(slots.workers, len(calls))
    for _ in range(working):
        threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    results: dict[int, Result[T]] = {}
    late = False
    bar = tqdm(total=len(calls), desc=progress, disable=progress is None)
    try:
        while working and len(results) < len(calls):
            try:
                outcome = done.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                late = True
                break
            if outcome is None:
                working -= 1
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                results[outcome[0]] = outcome[1]
                bar.update()
    finally:
        stop.set()
        bar.close()
    return [results.get(i) or _unfinished(late) for i in range(len(calls))]


async def arun_calls(
    calls: Sequence[Callable[[], Awaitable[T]]],
    slots: Slots,
    *,
    deadline: float | None = None,
    progress: str | None = None,
) -> list[Result[T]]:
    """Asynchronous twin of ``run_calls``; unfinished tasks are cancelled."""
    if deadline is not None and time.monotonic() >= deadline:
        return [_unfinished(late=True) for _ in calls]
    stop = False
    semaphore = slots.tasks()
    bar = tqdm(total=len(calls), desc=progress, disable=progress is None)

    async def one(call: Callable[[], Awaitable[T]]) -> Result[T]:
        nonlocal stop
        async with semaphore:
            if stop:
                return Result(error=NotStartedError("the run had stopped"))
            try:
                return Result(value=await call())
            except FATAL:
                raise
            except Exception as error:
                if _stops_the_run(error):
                    stop = True
                return Result(error=error)
            finally:
                bar.update()

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        if tasks:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() if task.done() else _unfinished(late=True) for task in tasks]
    finally:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            # A client that swallows its cancellation must not hold the caller.
            await asyncio.wait(pending, timeout=0.1)
        bar.close()


async def run_in_daemon_thread(function: Callable[[threading.Event], T], *, deadline: float | None = None) -> T:
    """Run a blocking function beside the event loop, in a thread that cannot keep the process alive.

    ``asyncio.to_thread`` shares a small pool, and the loop waits for that pool when it closes: one hung teacher would hang
    the application.

    Args:
        function: Gets an event that is set when nobody waits for the result any longer.
        deadline: ``time.monotonic()`` at which to give up.

    Raises:
        JudgementTimeout: If the function is not done by the deadline.
    """
    loop = asyncio.get_running_loop()
    # The outcome travels as a function that returns or raises it: a future refuses some exceptions, StopIteration for one.
    future: asyncio.Future[Callable[[], T]] = loop.create_future()
    stopped = threading.Event()

    def finish(outcome: Callable[[], T]) -> None:
        if not future.done():
            future.set_result(outcome)

    def work() -> None:
        outcome: Callable[[], T]
        try:
            outcome = partial(_identity, function(stopped))
        except BaseException as error:
            outcome = partial(_raise, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    try:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        outcome = await asyncio.wait_for(future, timeout)
    except asyncio.TimeoutError as error:
        raise JudgementTimeout(TOO_LATE) from error
    finally:
        stopped.set()
    return outcome()


def _raise(error: BaseException) -> Any:
    raise error


def _identity(value: T) -> T:
    return value


def _stops_the_run(error: Exception) -> bool:
    return is_configuration_failure(error) or isinstance(error, BudgetSpentError)


def _unfinished(late: bool) -> Result[Any]:
    if late:
        return Result(error=JudgementTimeout(TOO_LATE))
    return Result(error=NotStartedError("the run had stopped"))
