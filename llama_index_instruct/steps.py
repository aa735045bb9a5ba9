"""One description of what a retrieve does, run synchronously or asynchronously.

A course is a generator: it yields the steps that need the outside world (a store, a model) and gets their results. So a door's
logic is written once, and its synchronous and asynchronous form cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

S = TypeVar("S")
R = TypeVar("R")


def run_course(course: Generator[S, Any, R], perform: Callable[[S], Any]) -> R:
    """Run a course to its end and return its result; a step's exception is raised inside the course."""
    try:
        step = next(course)
        while True:
            try:
                result = perform(step)
            except Exception as error:
                step = course.throw(error)
            else:
                step = course.send(result)
    except StopIteration as end:
        value: R = end.value
        return value


async def arun_course(course: Generator[S, Any, R], perform: Callable[[S], Awaitable[Any]]) -> R:
    """Asynchronous twin of ``run_course``."""
    try:
        step = next(course)
        while True:
            try:
                result = await perform(step)
            except Exception as error:
                step = course.throw(error)
            else:
                step = course.send(result)
    except StopIteration as end:
        value: R = end.value
        return value
