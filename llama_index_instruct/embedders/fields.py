"""Constructor arguments of LlamaIndex components, refused in our own terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.text import has_words


@contextmanager
def checked_fields(component: type[BaseModel], fields: Mapping[str, Any]) -> Iterator[None]:
    """Refuse arguments that are no field, and turn pydantic's complaints about values into ours.

    Raises:
        ConfigurationError: The message names the argument and what was found.
    """
    unknown = sorted(set(fields) - set(component.model_fields) - {"class_name"})
    if unknown:
        raise ConfigurationError(
            f"{component.__name__}: unknown argument {unknown[0]!r}; known: {', '.join(sorted(component.model_fields))}"
        )
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{name}: {first['msg']}, found {first['input']!r}") from error


def check_instruction(instruction: str | None, name: str = "instruction") -> None:
    """Refuse a question that is empty or no text; None is "the same as for texts" where that is allowed.

    Raises:
        ConfigurationError: If it is.
    """
    if instruction is None and name == "query_instruction":
        return
    if not has_words(checked_text(instruction, name)):
        raise ConfigurationError(f'{name}: expected a question, such as "How does the writer feel?", found none')


def checked_text(text: object, name: str) -> str:
    """Return a text that a tokenizer can read.

    Raises:
        ConfigurationError: If it is no string, or holds half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{name}: expected a string, found {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{name}: expected valid Unicode, found half of a surrogate pair: {text[:40]!r}"
        ) from error
    return text


def checked_texts(texts: Sequence[str], name: str = "text", plural: str = "texts") -> list[str]:
    """Return texts that a tokenizer can read.

    Raises:
        ConfigurationError: If they are one bare string, or one of them is no text; the message gives its place.
    """
    if isinstance(texts, str):
        raise ConfigurationError(f"{plural}: expected a list of strings, found one string: {texts[:40]!r}")
    return [checked_text(text, f"{name} {i}") for i, text in enumerate(texts)]
