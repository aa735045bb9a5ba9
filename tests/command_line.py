"""The command line as a test sees it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from llama_index_instruct.cli import app


def run(*arguments: object) -> Result:
    """Call a command on a wide terminal without colours."""
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "2000", "NO_COLOR": "1"})


def refused(result: Result) -> str:
    """Return the one line that a refused command says."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.exception, result.output)
    lines = [line for line in result.stderr.splitlines() if "%|" not in line and line.strip()]
    assert len(lines) == 1 and lines[0].startswith("ConfigurationError: "), lines
    return lines[0]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
