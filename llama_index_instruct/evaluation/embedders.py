"""The embedders that InBedder is compared with, behind one call: texts and an instruction in, unit vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.models import loading, resolve_model
from llama_index_instruct.rows import unit_rows

if TYPE_CHECKING:
    from llama_index_instruct.inbedder.embedding import InBedderEmbedding

PREFIX = "prefix:"
CENTERED = "centered:"
Embed = Callable[[Sequence[str], str], npt.NDArray[np.float32]]


def load_embedder(name: str) -> Embed:
    """Return the embedder of this name.

    Args:
        name: ``minilm`` or any sentence-transformers model: blind to the instruction. ``prefix:NAME``: the same with the
            instruction written before the text. Any other model: an InBedder. ``centered:NAME``: an InBedder whose mean over
            the texts at hand is subtracted.

    Raises:
        ConfigurationError: If the model does not exist or is of no known kind.
    """
    way, model = split_name(name)
    with loading(f"model {model}"):
        if way == PREFIX:
            return _sentence_embedder(model, prefixed=True)
        if way != CENTERED and is_sentence_encoder(model):
            return _sentence_embedder(model, prefixed=False)
        return _answer_embedder(model, centered=way == CENTERED)


def split_name(name: str) -> tuple[str, str]:
    """Return how a model is used (``"prefix:"``, ``"centered:"`` or ``""``) and the model."""
    for way in (PREFIX, CENTERED):
        if name.startswith(way):
            return way, name.removeprefix(way)
    return "", name


def is_sentence_encoder(model: str) -> bool:
    """Tell whether a model is blind to instructions: a sentence-transformers folder, or a Hub model of that organisation."""
    path = Path(resolve_model(model))
    return (path / "modules.json").is_file() or model.startswith("sentence-transformers/")


def _sentence_embedder(name: str, *, prefixed: bool) -> Embed:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(resolve_model(name))

    def embed(texts: Sequence[str], instruction: str) -> npt.NDArray[np.float32]:
        read = [f"{instruction} {text}" for text in texts] if prefixed else list(texts)
        vectors: Any = model.encode(read, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return embed


def _answer_embedder(name: str, *, centered: bool) -> Embed:
    from llama_index_instruct.inbedder.embedding import InBedderEmbedding

    model: InBedderEmbedding = InBedderEmbedding(name)

    def embed(texts: Sequence[str], instruction: str) -> npt.NDArray[np.float32]:
        asking = model.with_instruction(instruction)
        if centered:
            asking = asking.centered_on(texts)
        return unit_rows(np.array(asking._get_text_embeddings(list(texts)), dtype=np.float32))

    return embed
