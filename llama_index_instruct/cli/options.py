"""What several commands share: options, clients, errors as messages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from llama_index_instruct.errors import ConfigurationError, InstructError

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM
    from qdrant_client import QdrantClient

console = Console()

LLM_HELP = "Model name at an OpenAI-compatible endpoint; the key is read from OPENAI_API_KEY."
LLM_BASE_HELP = "URL of that endpoint, up to /v1."
EMBED_HELP = "'minilm', a folder or a Hub name."
URL_HELP = "URL of the Qdrant server; a key is read from QDRANT_API_KEY."
PATH_HELP = "Folder of an in-process Qdrant, in the server's place."


def openai_like(model: str | None, base: str | None) -> LLM | None:
    """Return the LLM behind ``--llm`` and ``--llm-base``; None without ``--llm``."""
    if model is None:
        return None
    from llama_index.llms.openai_like import OpenAILike

    key = os.environ.get("OPENAI_API_KEY", "")
    if not key and base is None:
        raise ConfigurationError(
            "OPENAI_API_KEY: expected a key in the environment, or --llm-base for an endpoint without one"
        )
    return OpenAILike(
        model=model,
        api_base=base or "https://api.openai.com/v1",
        api_key=key or "none",
        is_chat_model=True,
        timeout=30.0,
    )


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn our typed errors into one line and exit status 2."""
    try:
        yield
    except InstructError as error:
        Console(stderr=True).print(f"[red]{type(error).__name__}[/red]: {error}", highlight=False)
        raise typer.Exit(2) from error


def qdrant_client(url: str | None, path: Path | None) -> QdrantClient:
    """Return the client behind ``--url`` or ``--path``."""
    from qdrant_client import QdrantClient

    if (url is None) == (path is None):
        raise ConfigurationError("expected --url URL or --path FOLDER, and not both")
    if path is not None:
        if not path.is_dir():
            raise ConfigurationError(f"--path: expected the folder of an in-process Qdrant, found nothing at {path}")
        return QdrantClient(path=str(path))
    return QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY"))
