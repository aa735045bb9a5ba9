"""Texts of an evaluation set -> unit vectors, kept on disk between runs if asked to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llama_index.core.base.embeddings.base import BaseEmbedding
from tqdm.auto import tqdm

# One call to the model encodes so many texts; sorted by length inside, so padding stays small.
CHUNK = 512


def encode(
    embed_model: BaseEmbedding,
    texts: Sequence[str],
    *,
    queries: bool,
    label: str,
    cache: Path | None = None,
    progress: bool = True,
) -> npt.NDArray[np.float32]:
    """Return unit vectors of texts, shape (n, d), float32.

    Args:
        embed_model: Any LlamaIndex embedding model.
        texts: n texts.
        queries: Whether they are queries, which some models encode differently.
        label: Shown on the progress bar.
        cache: Folder for the vectors, keyed by model, instructions, role and texts; None = encode each time.
        progress: Show a progress bar.
    """
    key = hashlib.sha256("\x1f".join([*_identity(embed_model), str(queries), *texts]).encode()).hexdigest()[:24]
    path = None if cache is None else cache / f"{key}.npy"
    if path is not None and path.is_file():
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[list[float]] = [[] for _ in texts]
    with tqdm(total=len(texts), desc=f"encoding {label}", disable=not progress) as bar:
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            wanted = [texts[i] for i in chunk]
            if queries:
                vectors = [embed_model.get_query_embedding(text) for text in wanted]
            else:
                vectors = embed_model.get_text_embedding_batch(wanted)
            for i, vector in zip(chunk, vectors, strict=True):
                rows[i] = vector
            bar.update(len(chunk))
    matrix = np.array(rows, dtype=np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, matrix)
    return matrix


def _identity(embed_model: BaseEmbedding) -> list[str]:
    """Return what tells one embedding model's vectors from another's: its name, and what it is told to look at."""
    told = (getattr(embed_model, name, None) for name in ("instruction", "query_instruction", "text_instruction"))
    return [embed_model.model_name, *(words for words in told if words)]
