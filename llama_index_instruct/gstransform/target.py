"""Where a transformed collection goes: a new collection, or a new named vector of the old one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


def patiently(retries: int) -> Retrying:
    """Return a policy for requests to Qdrant: what fails is tried again after a growing pause."""
    return Retrying(
        stop=stop_after_attempt(retries + 1),
        wait=wait_exponential(multiplier=0.5, max=10.0),
        retry=retry_if_exception(lambda error: isinstance(error, Exception) and not isinstance(error, MemoryError)),
        reraise=True,
    )


@dataclass(frozen=True)
class Target:
    """Where the vectors go.

    Attributes:
        source: Collection they come from.
        vector_name: Vector they are made of.
        collection: Collection they go to.
        vector: Name of the new vector; "" = unnamed.
        in_process: Whether Qdrant runs in this process, and so takes one writer only.
        retries: Of a request that fails.
        shard_key: Shard the points lie in, with custom sharding.
    """

    source: str
    vector_name: str
    collection: str
    vector: str
    in_process: bool
    retries: int = 3
    shard_key: str | int | None = None

    @property
    def same(self) -> bool:
        """Return whether the vectors go into the collection they come from."""
        return self.source == self.collection

    def write(self, client: QdrantClient, rows: tuple[list[Any], Any, list[dict[str, Any]]]) -> None:
        """Write points and wait for the acknowledgement."""
        from qdrant_client import models

        ids, vectors, payloads = rows
        if self.same:
            moved = [
                models.PointVectors(id=point, vector={self.vector: vector})
                for point, vector in zip(ids, vectors, strict=True)
            ]
            write = partial(
                client.update_vectors, self.collection, points=moved, wait=True, shard_key_selector=self.shard_key
            )
        else:
            # Lists of floats by construction: checking each number again would cost as much as the transform.
            points = [
                models.PointStruct.model_construct(
                    id=point, vector={self.vector: vector} if self.vector else vector, payload=payload
                )
                for point, vector, payload in zip(ids, vectors, payloads, strict=True)
            ]
            write = partial(client.upsert, self.collection, points=points, wait=True)
        patiently(self.retries)(write)

    def source_count(self, client: QdrantClient) -> int:
        """Return how many points have the vector to be transformed."""
        return _count_with(client, self.source, self.vector_name)

    def written_count(self, client: QdrantClient) -> int:
        """Return how many points have the new vector."""
        return _count_with(client, self.collection, self.vector)


def _count_with(client: QdrantClient, collection: str, vector: str) -> int:
    from qdrant_client import models

    only = models.Filter(must=[models.HasVectorCondition(has_vector=vector)])
    return int(client.count(collection, count_filter=only, exact=True).count)
