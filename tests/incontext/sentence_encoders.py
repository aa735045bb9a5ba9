"""A tiny real sentence encoder: BERT with mean pooling, as sentence-transformers saves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from inbedder.small_training import save_tiny
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer


def save_sentence_encoder(folder: Path, *, word_scale: float = 1.0, **settings) -> Path:
    """Save seeded random weights and their tokenizer.

    Args:
        folder: Where to.
        word_scale: Of the word embeddings: the larger, the less alike are texts of different words.
        settings: Of the model below.
    """
    body = Transformer(str(save_tiny("bert", folder.with_name(f"{folder.name}-body"), **settings)))
    body.model.get_input_embeddings().weight.data *= word_scale
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[body, pooling], device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


@contextmanager
def without_checkpoint_cards() -> Iterator[None]:
    """Leave out the card that the library writes beside each checkpoint: it takes longer than a few small steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentenceTransformer, "_create_model_card", lambda *args, **kwargs: None)
        yield
