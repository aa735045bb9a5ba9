"""How fast a whole collection is transformed, as ratios inside one run: against a bare loop, and against the bare product."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.evaluation.timing import cpu_seconds
from llama_index_instruct.gstransform.collection import transform_collection
from llama_index_instruct.gstransform.transform import BLOCK, GSTransform
from llama_index_instruct.rows import unit_rows

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

PAGE = 5000
BATCH = 1000
CLASSES = 10


def bench_collection(*, points: int = 20_000, dimension: int = 384, rounds: int = 3) -> dict[str, Any]:
    """Return the record ``{"bench": "collection", "settings": ..., "stream": ..., "product": ...}``, CPU time of one thread.

    ``stream``: points per CPU second of ``transform_collection`` over those of a bare scroll-and-upsert loop that copies the
    collection, same pages, same in-process Qdrant. ``product``: vectors per CPU second of ``GSTransform.transform`` over
    those of numpy's bare product in the same blocks. Median, lowest and highest of the rounds.

    Args:
        points: In the collection.
        dimension: Of the vectors, and of the transformed ones.
        rounds: Interleaved repetitions.
    """
    from qdrant_client import QdrantClient

    generator = np.random.default_rng(0)
    vectors = unit_rows(generator.normal(size=(points, dimension)).astype(np.float32))
    some = vectors[: min(points, 2000)]
    transform = GSTransform.from_labels(
        some, generator.integers(CLASSES, size=len(some)).tolist(), output_dimension=dimension
    )
    client = QdrantClient(":memory:")
    _fill(client, "source", vectors)
    stream, product = [], []
    with one_thread():
        for number in range(rounds):
            bare, _ = cpu_seconds(lambda number=number: _copy(client, "source", f"bare-{number}", dimension))  # type: ignore[misc]
            ours, _ = cpu_seconds(
                lambda number=number: transform_collection(  # type: ignore[misc]
                    client, "source", f"moved-{number}", transform, batch=BATCH, page=PAGE, progress=False
                )
            )
            stream.append(bare / ours)
            client.delete_collection(f"bare-{number}")
            client.delete_collection(f"moved-{number}")
            product.append(_product_ratio(vectors, transform))
    client.close()
    return {
        "bench": "collection",
        "settings": {"points": points, "dimension": dimension, "rounds": rounds},
        "stream": _spread(stream),
        "product": _spread(product),
    }


def _fill(client: QdrantClient, name: str, vectors: npt.NDArray[np.float32]) -> None:
    from qdrant_client import models

    client.create_collection(
        name, vectors_config=models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    )
    for start in range(0, len(vectors), BATCH):
        ids = list(range(start, min(start + BATCH, len(vectors))))
        payloads = [{"number": number, "text": f"text number {number} of the collection"} for number in ids]
        client.upsert(
            name, models.Batch(ids=list(ids), vectors=vectors[start : start + BATCH].tolist(), payloads=payloads)
        )


def _copy(client: QdrantClient, source: str, target: str, dimension: int) -> None:
    from qdrant_client import models

    client.create_collection(
        target, vectors_config=models.VectorParams(size=dimension, distance=models.Distance.COSINE)
    )
    offset: Any = None
    while True:
        points, offset = client.scroll(source, limit=PAGE, offset=offset, with_payload=True, with_vectors=True)
        for start in range(0, len(points), BATCH):
            copies: list[Any] = [
                models.PointStruct(id=point.id, vector=point.vector, payload=point.payload)  # type: ignore[arg-type]
                for point in points[start : start + BATCH]
            ]
            client.upsert(target, copies)
        if offset is None:
            return


def _product_ratio(vectors: npt.NDArray[np.float32], transform: GSTransform) -> float:
    weight = transform.layers[0][0]
    out = np.empty((len(vectors), weight.shape[0]), dtype=np.float32)

    def bare() -> None:
        for start in range(0, len(vectors), BLOCK):
            np.matmul(vectors[start : start + BLOCK], weight.T, out=out[start : start + BLOCK])

    bare()

    def ours() -> None:
        transform.transform(vectors, out=out)

    repeats = max(1, 200_000 // len(vectors))
    return sum(cpu_seconds(bare)[0] for _ in range(repeats)) / sum(cpu_seconds(ours)[0] for _ in range(repeats))


def _spread(ratios: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }
