"""What several commands share: options, clients, errors as messages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

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


def comma_separated(text: str) -> tuple[str, ...]:
    """Return the names in ``a, b,c``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def write_record(record: dict[str, Any], output: Path) -> None:
    """Write what a bench measured, as JSON."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_and_show(record: dict[str, Any], output: Path, table: Callable[[dict[str, Any], Console], None]) -> None:
    """Write what a bench measured before anything else can fail, then show it as a table and say where it is."""
    write_record(record, output)
    table(record, console)
    console.print(f"written: {output}", markup=False, soft_wrap=True)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn our typed errors, and those of a Qdrant that does not answer, into one line and exit status 2."""
    try:
        yield
    except InstructError as error:
        _say(type(error).__name__, str(error))
        raise typer.Exit(2) from error
    except Exception as error:
        if not type(error).__module__.startswith("qdrant_client."):
            raise
        _say(f"Qdrant, {type(error).__name__}", " ".join(str(error).split()))
        raise typer.Exit(2) from error


def _say(name: str, message: str) -> None:
    # Messages hold paths, labels and "[extra]"s, which are no markup; one line, however narrow the terminal.
    Console(stderr=True).print(f"[red]{escape(name)}[/red]: {escape(message)}", highlight=False, soft_wrap=True)


@contextmanager
def qdrant_client(url: str | None, path: Path | None) -> Iterator[QdrantClient]:
    """Open the client behind ``--url`` or ``--path``, and close it: an in-process folder serves one client at a time."""
    client = _client(url, path)
    try:
        yield client
    finally:
        client.close()


def _client(url: str | None, path: Path | None) -> QdrantClient:
    from qdrant_client import QdrantClient

    if (url is None) == (path is None):
        raise ConfigurationError("expected --url URL or --path FOLDER, and not both")
    if path is not None:
        if not path.is_dir():
            raise ConfigurationError(f"--path: expected the folder of an in-process Qdrant, found nothing at {path}")
        try:
            return QdrantClient(path=str(path))
        except RuntimeError as error:
            raise ConfigurationError(f"--path: {path} cannot be opened ({error})") from error
    return QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY"))
