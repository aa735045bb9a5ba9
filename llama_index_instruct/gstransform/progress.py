"""How far a collection's transformation is, kept in the target collection's own metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llama_index_instruct.gstransform.target import Target

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

KEY = "llama_index_instruct.gstransform"
# Parts that are none: the mark of a target just made, and a run over everything.
BEGUN = "begun"
WHOLE = "whole"


@dataclass(frozen=True)
class PartState:
    """Where one run over a part, or the whole, of a collection stands.

    Attributes:
        transform: Digest of the transform.
        source: Collection read.
        vector_name: Vector read.
        next: Id to go on from; None = from the start, or the end if done.
        done: Whether every page was written.
    """

    transform: str
    source: str
    vector_name: str
    next: int | str | None
    done: bool

    def as_metadata(self, goal: Target, part: str) -> dict[str, Any]:
        """Return the entry of the collection's metadata that says so."""
        return {_entry(goal, part): asdict(self)}


def read_states(client: QdrantClient, goal: Target) -> dict[str, PartState]:
    """Return the states of all parts of a target, by part; empty if it is not one of ours."""
    metadata = client.get_collection(goal.collection).config.metadata or {}
    prefix = _entry(goal, "")
    return {
        key[len(prefix) :]: PartState(**value) for key, value in metadata.items() if key.startswith(prefix) and value
    }


def write_state(client: QdrantClient, goal: Target, part: str, state: PartState) -> None:
    """Record the state of one part; entries of others stay."""
    client.update_collection(goal.collection, metadata=state.as_metadata(goal, part))


def clear_states(client: QdrantClient, goal: Target) -> None:
    """Forget the states of all parts; Qdrant drops metadata that is set to null."""
    stale = {_entry(goal, part): None for part in read_states(client, goal)}
    if stale:
        client.update_collection(goal.collection, metadata=stale)


def _entry(goal: Target, part: str) -> str:
    return f"{KEY}:{goal.vector}:{part}"
