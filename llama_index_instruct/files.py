"""Lines of data files, gzip or not; what cannot be read is one typed error that names the place."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index_instruct.errors import ConfigurationError


def numbered_lines(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield every line that is not blank, with its place ("FILE, line 3").

    Raises:
        ConfigurationError: If the file is missing, damaged or not readable.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}, line {number}", line
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error})") from error


def json_object(line: bytes, place: str) -> dict[str, Any]:
    """Return the JSON object in a line.

    Raises:
        ConfigurationError: If it holds none; the message names the place.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigurationError(f"{place}: expected a JSON object, found {error}") from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"{place}: expected a JSON object, found {type(row).__name__}")
    return row


def read_text(path: str | Path) -> str:
    """Return a text file's content.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error})") from error
