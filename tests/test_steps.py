"""Courses, run both ways, and what wrapping retrievers ask of a query."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from fakes import WordEmbedding
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import QueryBundle

from llama_index_instruct import ConfigurationError
from llama_index_instruct.queries import as_bundle, as_inner_retriever, checked_vector, with_embedding
from llama_index_instruct.steps import arun_course, run_course


async def both(course, perform):
    """Result or exception of a course, run both ways; they must agree."""

    async def aperform(step):
        await asyncio.sleep(0)
        return perform(step)

    outcomes = []
    for kind in ("sync", "async"):
        try:
            value = run_course(course(), perform) if kind == "sync" else await arun_course(course(), aperform)
            outcomes.append((type(value), value))
        except Exception as error:
            outcomes.append((type(error), str(error)))
    assert outcomes[0] == outcomes[1]
    return outcomes[0][1]


async def test_results_go_in_and_the_value_comes_out():
    def course():
        first = yield 1
        second = yield first + 1
        return [first, second]

    assert await both(course, lambda step: 10 * step) == [10, 110]


async def test_a_course_without_steps():
    def course():
        return "done"
        yield

    assert await both(course, lambda step: None) == "done"


async def test_a_steps_exception_is_raised_inside_the_course():
    def course():
        try:
            yield "a"
        except KeyError as error:
            kept = error.args[0]
        return kept + (yield "b")

    def perform(step):
        if step == "a":
            raise KeyError("caught ")
        return step

    assert await both(course, perform) == "caught b"


async def test_an_exception_nobody_catches_comes_out_unchanged():
    closed = []

    def course():
        try:
            yield "a"
        finally:
            closed.append(True)

    def perform(step):
        raise OSError("no disk")

    assert await both(course, perform) == "no disk"
    assert closed == [True, True]


async def test_an_exception_of_the_course_itself_comes_out():
    def course():
        yield "a"
        raise LookupError("mine")

    assert await both(course, lambda step: None) == "mine"


async def test_an_exhausted_iterator_in_a_step_does_not_pass_for_the_end():
    nothing = iter(())

    def course():
        yield "a"
        return "not reached"

    with pytest.raises(RuntimeError):
        run_course(course(), lambda step: next(nothing))

    async def perform(step):
        return await asyncio.to_thread(str) + next(nothing)

    with pytest.raises(RuntimeError):
        await arun_course(course(), perform)


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_what_must_stop_everything_is_not_offered_to_the_course(fatal):
    def course():
        try:
            yield "a"
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                return "swallowed"
            raise

    def perform(step):
        raise fatal

    async def aperform(step):
        raise fatal

    with pytest.raises(fatal):
        run_course(course(), perform)
    with pytest.raises(fatal):
        await arun_course(course(), aperform)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [-math.inf, math.inf], [1e39, 1.0]])
def test_unsound_query_vectors(vector):
    with pytest.raises(ConfigurationError, match="query embedding"):
        checked_vector(vector)


@pytest.mark.parametrize("vector", [[3.0, 4.0], (3, 4), np.array([1e30, -1e30]), np.array([1e-30, 0.0])])
def test_sound_query_vectors(vector):
    checked = checked_vector(vector)
    assert checked.dtype == np.float32
    np.testing.assert_allclose(checked, vector, rtol=1e-6)


@pytest.mark.parametrize("query", ["", " \n\t", QueryBundle("  ")])
def test_empty_queries(query):
    with pytest.raises(ConfigurationError, match="some text"):
        as_bundle(query)


def test_a_bundle_with_another_embedding_keeps_the_rest():
    given = QueryBundle("q", image_path="p.png", custom_embedding_strs=["a", "b"], embedding=[1.0])
    other = with_embedding(given, [2.0])
    assert given.embedding == [1.0] and other.embedding == [2.0]
    assert (other.query_str, other.image_path, other.embedding_strs) == ("q", "p.png", ["a", "b"])
    assert as_bundle(given) is given


def test_inner_retrievers(index):
    inner = index.as_retriever(similarity_top_k=3)
    assert as_inner_retriever(inner, None, usage="x") is inner
    assert isinstance(as_inner_retriever(None, index, usage="x"), BaseRetriever)
    for pair in ((None, None), (inner, index)):
        with pytest.raises(ConfigurationError, match="not both: Door"):
            as_inner_retriever(*pair, usage="Door(index)")
    for wrong in ("shop", WordEmbedding(), 7):
        with pytest.raises(ConfigurationError, match=f"found {type(wrong).__name__}"):
            as_inner_retriever(wrong, None, usage="x")
