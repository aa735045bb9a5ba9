"""The rankings that numpy computed, run through a real Qdrant collection and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from llama_index_instruct.errors import InstructError
from llama_index_instruct.evaluation.peers import Ranked

if TYPE_CHECKING:
    from qdrant_client import models

DEPTH = 100
# Documents whose scores differ by less are tied in float32: their order is nobody's.
TIE = 1e-5


def check_against_qdrant(
    documents: npt.NDArray[np.float32],
    pools: Sequence[npt.NDArray[np.intp]],
    ranked: Mapping[str, Sequence[Ranked]],
    *,
    sample: int,
    label: str,
    progress: bool = True,
) -> int:
    """Return how many rankings were found equal in their first 100 places.

    Args:
        documents: Shape (n, d), unit rows.
        pools: Per query, rows it is ranked over.
        ranked: Per method, a ranking per query; those without a single query vector are left out.
        sample: How many queries, evenly spread; 0 = none.
        label: Shown on the progress bar.
        progress: Show a progress bar.

    Raises:
        InstructError: If Qdrant ranks differently.
    """
    if sample < 1:
        return 0
    from qdrant_client import QdrantClient, models

    queries = np.unique(np.linspace(0, len(pools) - 1, min(sample, len(pools))).astype(int))
    client = QdrantClient(":memory:")
    try:
        client.create_collection(
            "check",
            vectors_config=models.VectorParams(size=documents.shape[1], distance=models.Distance.COSINE),
        )
        client.upload_collection("check", vectors=documents, ids=range(len(documents)))
        checked = 0
        for q in tqdm(queries, desc=f"{label} in Qdrant", disable=not progress):
            for name, results in ranked.items():
                vector = results[q].vector
                if vector is None:
                    continue
                hits = client.query_points(
                    "check",
                    query=vector.tolist(),
                    query_filter=_only(pools[q], len(documents)),
                    limit=min(DEPTH, len(pools[q])),
                    with_payload=False,
                ).points
                found = np.array([hit.id for hit in hits])
                expected = pools[q][results[q].rows][: len(found)]
                scores = documents @ (vector / np.linalg.norm(vector)).astype(np.float32)
                if np.abs(scores[found] - scores[expected]).max() > TIE:
                    raise InstructError(f"{label}, {name}, query {q}: Qdrant and numpy rank differently")
                checked += 1
        return checked
    finally:
        client.close()


def _only(pool: npt.NDArray[np.intp], documents: int) -> models.Filter | None:
    from qdrant_client import models

    if len(pool) == documents:
        return None
    return models.Filter(must=[models.HasIdCondition(has_id=pool.tolist())])
