"""Is this the embedding model a transform was fitted for? A fingerprint by behaviour, because names and folders change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llama_index_instruct.rows import unit_rows

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

PROBES = (
    "The parcel arrived on Tuesday, but the lid of the box was cracked.",
    "How do I change the language of the menu?",
    "Seven grey herons stood in the shallow water and did not move.",
)
# Another build, batch or bf16 leaves about 0.9999; another model is nowhere near.
SAME = 0.999


def fingerprint(embed_model: BaseEmbedding) -> npt.NDArray[np.float32]:
    """Return the unit vectors of the probe texts, shape (3, d)."""
    return unit_rows(np.array(embed_model.get_text_embedding_batch(list(PROBES)), dtype=np.float32))


async def afingerprint(embed_model: BaseEmbedding) -> npt.NDArray[np.float32]:
    """Asynchronous twin of ``fingerprint``."""
    return unit_rows(np.array(await embed_model.aget_text_embedding_batch(list(PROBES)), dtype=np.float32))


def agrees(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    """Return whether two fingerprints are of one model."""
    return a.shape == b.shape and bool(((a * b).sum(axis=1) >= SAME).all())
