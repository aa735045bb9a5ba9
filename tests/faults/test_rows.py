"""The battery has a test for every row of the fault table, F1 to F40, under its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

# Rows that cannot touch this package, and why: none.
NOT_OURS: dict[str, str] = {}
NAMED = re.compile(r"test_f(\d\d)_")


def named_rows():
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (found := NAMED.match(node.name)):
                yield f"F{int(found.group(1))}"


def test_every_row_has_a_test_or_a_reason():
    tested = set(named_rows())
    assert not tested & set(NOT_OURS)
    assert tested | set(NOT_OURS) == {f"F{row}" for row in range(1, 41)}
