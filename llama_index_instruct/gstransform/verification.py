"""Is the target what the source becomes? By count, and by comparing a sample vector by vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_index_instruct.errors import CollectionError
from llama_index_instruct.gstransform.progress import PartState, read_states, write_state
from llama_index_instruct.gstransform.stores import dense_vector
from llama_index_instruct.gstransform.target import Target
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.rows import unit_rows

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

# Cosine collections store unit vectors in float32.
TOLERANCE = 1e-4


def verify_collection(client: QdrantClient, goal: Target, transform: GSTransform, *, sample: int) -> None:
    """Compare target and source.

    Args:
        client: Synchronous client.
        goal: The target.
        transform: What it was made with.
        sample: Points compared, spread over the ids.

    Raises:
        CollectionError: If a point is missing or a vector differs; the next run begins at the start.
    """
    expected = goal.source_count(client)
    found = goal.written_count(client)
    if found > expected:
        raise CollectionError(
            f"expected {expected} transformed points, found {found}: collection {goal.source!r} lost points that the target "
            "still has; delete them there too, or make a new target"
        )
    if expected != found:
        _forget(client, goal)
        raise CollectionError(
            f"expected {expected} transformed points, found {found}: collection {goal.source!r} changed during the run, or a "
            "part is missing; the same call, made again, goes over it once more"
        )
    ids = _spread(client, goal.source, sample)
    if not ids:
        return
    before = _vectors(client, goal.source, ids, goal.vector_name)
    after = _vectors(client, goal.collection, ids, goal.vector)
    known = [point for point in ids if before.get(point) is not None]
    absent = [point for point in known if after.get(point) is None]
    if absent:
        _forget(client, goal)
        raise CollectionError(
            f"expected a transformed vector of point {absent[0]!r}, found none; make the same call again"
        )
    if not known:
        return
    moved = unit_rows(transform.transform(np.array([before[point] for point in known], dtype=np.float32)))
    wrong = np.abs(np.array([after[point] for point in known]) - moved).max(axis=1) > TOLERANCE
    if wrong.any():
        _forget(client, goal)
        raise CollectionError(
            f"point {known[int(wrong.argmax())]!r}: the stored vector is not the transform of its source; {int(wrong.sum())} "
            f"of {len(known)} compared differ; make the same call again"
        )


def switch_alias(client: QdrantClient, alias: str, collection: str) -> None:
    """Let an alias point to a collection, in one step if it points elsewhere."""
    from qdrant_client import models

    operations: list[Any] = []
    if any(known.alias_name == alias for known in client.get_aliases().aliases):
        operations.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    created = models.CreateAlias(collection_name=collection, alias_name=alias)
    operations.append(models.CreateAliasOperation(create_alias=created))
    client.update_collection_aliases(change_aliases_operations=operations)


def _forget(client: QdrantClient, goal: Target) -> None:
    """Let the next run begin at the start: writing a point again changes nothing."""
    for part, state in read_states(client, goal).items():
        write_state(client, goal, part, PartState(state.transform, state.source, state.vector_name, None, done=False))


def _spread(client: QdrantClient, collection: str, count: int) -> list[Any]:
    if count < 1:
        return []
    from qdrant_client import models

    points = client.query_points(
        collection,
        query=models.SampleQuery(sample=models.Sample.RANDOM),
        limit=count,
        with_payload=False,
        with_vectors=False,
    ).points
    return [point.id for point in points]


def _vectors(client: QdrantClient, collection: str, ids: list[Any], name: str) -> dict[Any, Any]:
    wanted: Any = [name] if name else True
    points = client.retrieve(collection, ids=ids, with_payload=False, with_vectors=wanted)
    return {point.id: dense_vector(point.vector, name) for point in points}
