"""A whole Qdrant collection -> a new collection or a new named vector: streamed, checked, resumable, never in place."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from llama_index_instruct.errors import CollectionError, ConfigurationError
from llama_index_instruct.gstransform.preparing import prepare_target
from llama_index_instruct.gstransform.progress import BEGUN, WHOLE, PartState, read_states, write_state
from llama_index_instruct.gstransform.stores import dense_vector
from llama_index_instruct.gstransform.target import Target, patiently
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.gstransform.verification import switch_alias, verify_collection
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.spans import span

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

# What an id may be to the client; the server sends numbers and strings.
PointId = Any
# Numbers per page of vectors: Python holds each in 32 bytes until they are an array.
PAGE_NUMBERS = 2_000_000


@dataclass(frozen=True)
class CollectionReport:
    """What became of a collection.

    Attributes:
        source: Its name.
        target: The new collection, or the same one.
        target_vector: The new vector's name; "" = the only one.
        transformed: Points written in this run.
        without_vector: Points that have no vector to transform, in this run.
        resumed: Whether an earlier run had done a part.
        complete: Whether the whole was checked, by count and by sample.
        seconds: Of this run.
    """

    source: str
    target: str
    target_vector: str
    transformed: int
    without_vector: int
    resumed: bool
    complete: bool
    seconds: float


@dataclass(frozen=True, eq=False)
class _Page:
    ids: list[PointId]
    vectors: list[Any]
    payloads: list[dict[str, Any]]
    missing: int
    next: PointId | None


def transform_collection(
    client: QdrantClient,
    source: str,
    target: str,
    transform: GSTransform,
    *,
    vector_name: str = "",
    target_vector: str = "",
    batch: int = 1000,
    page: int | None = None,
    parallel: int = 4,
    resume: bool = True,
    progress: bool = True,
    retries: int = 3,
    id_range: tuple[PointId | None, PointId | None] | None = None,
    shard_key: str | int | None = None,
    alias: str | None = None,
    checked_sample: int = 100,
) -> CollectionReport:
    """Write the transformed vectors of a collection into a new collection, or into a new named vector of it.

    Where it stands is kept in the target collection's metadata, after every acknowledged page: a run that was killed is
    taken up by the same call, and one that is done is not done again. Ids are kept; a new collection gets the payloads, and
    the payload indexes, too. The source's vectors are never written to. While it runs, the source should not change: what was
    added behind the cursor is found by the final count, and is an error. Traces show a span ``transform_collection`` and
    below it ``.write`` and ``.verify``.

    Args:
        client: Synchronous client.
        source: Collection to read.
        target: Collection to write: new, or ``source`` together with a new ``target_vector``.
        transform: Compare its vectors by cosine; search them with ``transform.transform_query``.
        vector_name: Vector to transform; "" = the unnamed or the only one.
        target_vector: Name of the new vector; "" = the unnamed vector of a new collection.
        batch: Points per write request.
        page: Points per read; None = as many as make 2 million numbers, at most 5,000. Memory holds three pages.
        parallel: Write requests at a time; an in-process Qdrant, which cannot take more, gets one.
        resume: Take up an earlier run; False = an error if there is one.
        progress: Show a progress bar.
        retries: A failed write is made again so many times, after a growing pause.
        id_range: Only ids from the first to before the second, in the order Qdrant scrolls; None = open. For several machines,
            each with a range of its own; the last step is then one call without ``id_range``, which checks.
        shard_key: Only this shard, for collections with custom sharding; likewise.
        alias: Switched to the target after the check.
        checked_sample: Points whose vectors are compared at the end.

    Raises:
        ConfigurationError: If the arguments would write in place, or a number is out of range.
        DimensionMismatchError: If the vectors have another size than the transform's input.
        IncompatibleStoreError: If the collection has another distance than the transform's.
        CollectionError: If the target holds something else, writing fails for good, or the final check does.
    """
    for name, value, least in (
        ("batch", batch, 1),
        ("page", page, 1),
        ("parallel", parallel, 1),
        ("retries", retries, 0),
    ):
        if value is not None and value < least:
            raise ConfigurationError(f"{name}: expected {least} or more, found {value}")
    whole = id_range is None and shard_key is None
    if alias is not None and not whole:
        raise ConfigurationError("alias: goes with a run over the whole collection, not with id_range or shard_key")
    start = time.perf_counter()
    with span("transform_collection") as counts:
        goal = prepare_target(
            client,
            source,
            target,
            transform,
            vector_name=vector_name,
            target_vector=target_vector,
            resume=resume,
            retries=retries,
            shard_key=shard_key,
            alias=alias,
        )
        part = WHOLE if whole else f"{id_range}/{shard_key}"
        states = read_states(client, goal)
        resumed = any(known != BEGUN for known in states)
        state = states.get(part) or PartState(transform.digest, goal.source, goal.vector_name, None, done=False)
        size = page or min(max(PAGE_NUMBERS // transform.input_dimension, 256), 5000)
        written = missing = 0
        if not state.done and not (whole and _parts_are_done(client, goal, states)):
            pages = _pages(client, goal, size, state.next, id_range, shard_key)
            with span("transform_collection.write") as stage:
                written, missing = _stream(client, goal, transform, pages, state, part, batch, parallel, progress)
                stage |= {"transformed": written, "without_vector": missing}
        if whole:
            with span("transform_collection.verify", sample=checked_sample):
                verify_collection(client, goal, transform, sample=checked_sample)
            write_state(client, goal, part, PartState(transform.digest, goal.source, goal.vector_name, None, done=True))
            if alias is not None:
                switch_alias(client, alias, target)
        counts |= {"transformed": written, "without_vector": missing, "resumed": resumed, "complete": whole}
    return CollectionReport(
        source, target, target_vector, written, missing, resumed, whole, round(time.perf_counter() - start, 3)
    )


def _pages(
    client: QdrantClient,
    goal: Target,
    size: int,
    offset: PointId | None,
    id_range: tuple[PointId | None, PointId | None] | None,
    shard_key: str | int | None,
) -> Iterator[_Page]:
    first, stop = id_range or (None, None)
    offset = first if offset is None else offset
    with_vectors: Any = [goal.vector_name] if goal.vector_name else True
    with_payload = not goal.same
    while True:
        points, offset = patiently(goal.retries)(
            client.scroll,
            goal.source,
            limit=size,
            offset=offset,
            with_payload=with_payload,
            with_vectors=with_vectors,
            shard_key_selector=shard_key,
        )
        if stop is not None:
            inside = [point for point in points if _order(point.id) < _order(stop)]
            if len(inside) < len(points):
                points, offset = inside, None
        vectors = [dense_vector(point.vector, goal.vector_name) for point in points]
        kept = [row for row, vector in enumerate(vectors) if vector is not None]
        yield _Page(
            [points[row].id for row in kept],
            [vectors[row] for row in kept],
            [points[row].payload or {} for row in kept] if with_payload else [],
            len(points) - len(kept),
            offset,
        )
        if offset is None:
            return


def _order(point_id: PointId) -> tuple[int, int | str]:
    """Return the place of an id in Qdrant's order: numbers before UUIDs."""
    return (0, point_id) if isinstance(point_id, int) else (1, str(uuid.UUID(str(point_id))))


def _stream(
    client: QdrantClient,
    goal: Target,
    transform: GSTransform,
    pages: Iterator[_Page],
    state: PartState,
    part: str,
    batch: int,
    parallel: int,
    progress: bool,
) -> tuple[int, int]:
    """Write pages; the state moves past a page once it and all before it are acknowledged."""
    workers = 1 if goal.in_process else parallel
    written = missing = 0
    pending: deque[tuple[_Page, list[Future[None]]]] = deque()
    bar = tqdm(
        total=client.count(goal.source, exact=True).count, desc=f"transforming {goal.source}", disable=not progress
    )

    def settle(page: _Page, writes: list[Future[None]]) -> None:
        nonlocal written, missing
        for write in writes:
            write.result()
        reached = PartState(state.transform, state.source, state.vector_name, page.next, page.next is None)
        patiently(goal.retries)(write_state, client, goal, part, reached)
        written += len(page.ids)
        missing += page.missing
        bar.update(len(page.ids) + page.missing)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for page in pages:
                writes = [pool.submit(goal.write, client, rows) for rows in _batches(page, transform, batch)]
                pending.append((page, writes))
                # One page is being written while the next is read: that bounds the memory.
                while len(pending) > 1:
                    settle(*pending.popleft())
            while pending:
                settle(*pending.popleft())
        except MemoryError:
            raise
        except Exception as error:
            pool.shutdown(wait=True, cancel_futures=True)
            raise CollectionError(
                f"stopped after {written} points ({type(error).__name__}); what was acknowledged is kept: the same call goes on"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            bar.close()
    return written, missing


def _batches(
    page: _Page, transform: GSTransform, size: int
) -> Iterator[tuple[list[PointId], Any, list[dict[str, Any]]]]:
    if not page.ids:
        return
    # A server brings them to unit length; a Qdrant that runs in this process forgets to when it is opened again.
    moved = unit_rows(transform.transform(np.array(page.vectors, dtype=np.float32)))
    for start in range(0, len(page.ids), size):
        stop = start + size
        yield page.ids[start:stop], moved[start:stop].tolist(), page.payloads[start:stop]


def _parts_are_done(client: QdrantClient, goal: Target, states: Mapping[str, PartState]) -> bool:
    """Return whether runs over parts were made, are all done, and cover the source as far as the counts say."""
    parts = [state for part, state in states.items() if part not in (BEGUN, WHOLE)]
    if not parts or not all(state.done for state in parts):
        return False
    return goal.written_count(client) == goal.source_count(client)
