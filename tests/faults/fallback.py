"""Policy B in one assertion: trouble in an optional stage gives the plain ranking and one warning, whatever the trouble."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import pytest
from doors import WAYS, ask, hits_of
from faulty_server import SECRET, FaultyServer
from gstransform.shop import recorded, same
from llama_index.core.schema import NodeWithScore

from llama_index_instruct import RefinementError, RefinementTrace


async def assert_falls_back(
    door: Any,
    plain: Sequence[NodeWithScore],
    reason: str,
    *,
    server: FaultyServer | None = None,
    calls: int | None = None,
    hits: Sequence[NodeWithScore] = (),
    error: type[Exception] = RefinementError,
    within: float = 15.0,
) -> None:
    """Sync and async: the plain ids and scores, one warning that says why, few calls, in time; an error where asked for.

    Args:
        door: Set to ``on_error="plain"``.
        plain: The ranking it must return.
        reason: What the warning, and the trace where there is one, must say.
        server: Whose counting begins anew each time.
        calls: Most questions to the teacher each time.
        hits: What a postprocessor is given.
        error: What ``on_error="raise"`` raises.
        within: Seconds; faults that are waited for last a minute.
    """
    raising = copy.copy(door)
    raising.on_error = "raise"
    _count_anew(server)
    asked = 0
    for way in WAYS:
        start = time.perf_counter()
        with recorded() as said:
            answer = await ask(door, way, hits=hits)
        assert time.perf_counter() - start < within
        same(hits_of(answer), plain)
        assert len(said) == 1, said
        assert reason in said[0] and SECRET not in said[0]
        if isinstance(answer, RefinementTrace):
            assert not answer.changed and answer.angle == 0.0
            assert reason in answer.reason and answer.trouble == answer.reason
        asked += _count_anew(server)
        with pytest.raises(error):
            await ask(raising, way, hits=hits)
        asked += _count_anew(server)
    # In all: what a deadline left under way may arrive later.
    assert calls is None or asked <= 2 * len(WAYS) * calls


def _count_anew(server: FaultyServer | None) -> int:
    asked = 0 if server is None else len(server.passages)
    if server is not None:
        server.forget()
    return asked
