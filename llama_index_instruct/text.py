"""What counts as a text that says something."""

from __future__ import annotations


def has_words(text: str) -> bool:
    r"""Tell whether a text holds a character that can be seen: blanks and control characters say nothing.

    Example:
        >>> has_words("a"), has_words(" \n"), has_words("\x00\x01")
        (True, False, False)
    """
    return any(character.isprintable() and not character.isspace() for character in text)
