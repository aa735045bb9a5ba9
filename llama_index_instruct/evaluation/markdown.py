"""Tables made for the terminal, as Markdown."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# No cell is ever cut.
WIDTH = 4000


class _MarkdownConsole(Console):
    """Prints tables in Markdown, a title as a line of its own above, and other lines as paragraphs."""

    def print(self, *objects: Any, **options: Any) -> None:
        for shown in objects:
            if not isinstance(shown, Table):
                super().print(shown, soft_wrap=True, **options)
                super().print()
                continue
            if shown.title is not None:
                title = shown.title if isinstance(shown.title, Text) else Text.from_markup(shown.title)
                self.print(Text(f"**{title.plain}**"))
            shown.title, shown.box = None, box.MARKDOWN
            super().print(shown, **options)
            super().print()


def as_markdown(show: Callable[[Console], None]) -> str:
    """Return what a function prints on the console it is given, in Markdown.

    Example:
        >>> table = Table("animal", "legs", title="Legs")
        >>> table.add_row("dog", "4")
        >>> print(as_markdown(lambda console: console.print(table)))
        **Legs**
        <BLANKLINE>
        | animal | legs |
        |--------|------|
        | dog    | 4    |
    """
    out = io.StringIO()
    show(_MarkdownConsole(file=out, width=WIDTH, color_system=None, highlight=False))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(kept).strip()
