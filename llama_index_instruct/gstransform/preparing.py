"""Checks where a transformed collection is to go, and makes it: nothing that is somebody else's is written to."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llama_index_instruct.errors import CollectionError, ConfigurationError
from llama_index_instruct.gstransform.progress import BEGUN, PartState, clear_states, read_states, write_state
from llama_index_instruct.gstransform.stores import dense_vector_params
from llama_index_instruct.gstransform.target import Target, patiently
from llama_index_instruct.gstransform.transform import GSTransform

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


def prepare_target(
    client: QdrantClient,
    source: str,
    target: str,
    transform: GSTransform,
    *,
    vector_name: str,
    target_vector: str,
    resume: bool,
    retries: int,
    shard_key: str | int | None,
    alias: str | None,
) -> Target:
    """Check source and target, and make the target if it is not there yet.

    Raises:
        ConfigurationError: If the arguments would write in place.
        CollectionError: If the source is missing, or the target holds something else.
    """
    aliases = {known.alias_name: known.collection_name for known in client.get_aliases().aliases}
    if target in aliases:
        raise ConfigurationError(
            f"target: {target!r} is an alias of {aliases[target]!r}; give the name of a new collection"
        )
    source = aliases.get(source, source)
    if not client.collection_exists(source):
        raise CollectionError(f"collection {source!r}: expected it to exist, found nothing of that name")
    if alias is not None and client.collection_exists(alias) and alias not in aliases:
        raise ConfigurationError(f"alias: {alias!r} is the name of a collection; give another one")
    if source == target and target_vector in ("", vector_name):
        raise ConfigurationError(f"target: {target!r} is the source; give a new collection, or a new target_vector")
    params: Any = client.get_collection(source).config.params.vectors
    if source == target and isinstance(params, dict) and len(params) > 1:
        # On a second run the new vector is there too, and the old one is no longer the only one.
        params = {name: config for name, config in params.items() if name != target_vector}
    resolved, source_params = dense_vector_params(params, vector_name, source)
    if source == target and target_vector == resolved:
        raise ConfigurationError(f"target_vector: {target_vector!r} is the source; give a new name")
    if source_params.multivector_config is not None:
        raise ConfigurationError(
            f"collection {source!r}: vector {resolved!r} holds several vectors a point; expected one"
        )
    transform.check_store(
        name=f"collection {source!r}", dimension=source_params.size, distance=source_params.distance.value
    )
    goal = Target(source, resolved, target, target_vector, _is_in_process(client), retries, shard_key)
    _refuse_foreign(client, goal, transform, resume=resume)
    _create(client, goal, transform)
    _copy_payload_indexes(client, goal)
    return goal


def _refuse_foreign(client: QdrantClient, goal: Target, transform: GSTransform, *, resume: bool) -> None:
    """Refuse to write where something else is, or the work of another transform."""
    if not client.collection_exists(goal.collection):
        return
    params = client.get_collection(goal.collection).config.params
    if goal.vector in (params.sparse_vectors or {}):
        raise CollectionError(
            f"vector {goal.vector!r} of collection {goal.collection!r} exists and is a sparse one; choose another name"
        )
    exists = not goal.same or (isinstance(params.vectors, dict) and goal.vector in params.vectors)
    if not exists:
        return
    states = read_states(client, goal)
    what = (
        f"vector {goal.vector!r} of collection {goal.collection!r}" if goal.same else f"collection {goal.collection!r}"
    )
    if not states:
        raise CollectionError(
            f"{what} exists and was not made by a transform; it is never overwritten, choose another name"
        )
    if not resume:
        raise CollectionError(f"{what} exists; call with resume=True to go on, or choose another name")
    for state in states.values():
        if state.transform != transform.digest:
            raise CollectionError(
                f"{what} was begun with another transform; choose another name, or use that transform"
            )
        if (state.source, state.vector_name) != (goal.source, goal.vector_name):
            raise CollectionError(
                f"{what} was begun from vector {state.vector_name!r} of collection {state.source!r}, not from "
                f"{goal.vector_name!r} of {goal.source!r}; choose another name"
            )


def _create(client: QdrantClient, goal: Target, transform: GSTransform) -> None:
    from qdrant_client import models

    size = transform.output_dimension
    begun = PartState(transform.digest, goal.source, goal.vector_name, None, done=False)
    if goal.same:
        vectors = client.get_collection(goal.collection).config.params.vectors
        if not (isinstance(vectors, dict) and goal.vector in vectors):
            # Marks of a vector that was dropped would speak for the new one.
            clear_states(client, goal)
            # The mark goes first: a vector without it would be taken for somebody else's.
            write_state(client, goal, BEGUN, begun)
            client.create_vector_name(
                goal.collection,
                goal.vector,
                models.DenseVectorNameConfig(
                    dense=models.DenseVectorConfig(size=size, distance=models.Distance.COSINE)
                ),
            )
        return
    if client.collection_exists(goal.collection):
        return
    params = models.VectorParams(size=size, distance=models.Distance.COSINE)
    client.create_collection(
        goal.collection,
        vectors_config={goal.vector: params} if goal.vector else params,
        metadata=begun.as_metadata(goal, BEGUN),
    )


def _copy_payload_indexes(client: QdrantClient, goal: Target) -> None:
    """Make the payload indexes the target lacks, also where an earlier run was stopped before it had."""
    if goal.same:
        return
    there = client.get_collection(goal.collection).payload_schema
    for field, index in client.get_collection(goal.source).payload_schema.items():
        if field not in there:
            make = partial(
                client.create_payload_index, goal.collection, field, field_schema=index.params or index.data_type
            )
            patiently(goal.retries)(make)


def _is_in_process(client: QdrantClient) -> bool:
    from qdrant_client.local.qdrant_local import QdrantLocal

    return isinstance(getattr(client, "_client", None), QdrantLocal)
