"""Checks that several settings classes make of their fields; None means "not set" and passes, NaN never does."""

from __future__ import annotations

from llama_index_instruct.errors import ConfigurationError


def check_positive(settings: object, *names: str) -> None:
    """Raise a ``ConfigurationError`` naming the first of these fields that is not more than 0."""
    for name, value in _set(settings, names):
        if not value > 0:
            raise ConfigurationError(f"{name}: expected more than 0, found {value}")


def check_not_negative(settings: object, *names: str) -> None:
    """Raise a ``ConfigurationError`` naming the first of these fields that is less than 0."""
    for name, value in _set(settings, names):
        if not value >= 0:
            raise ConfigurationError(f"{name}: expected 0 or more, found {value}")


def check_share(settings: object, *names: str) -> None:
    """Raise a ``ConfigurationError`` naming the first of these fields that is not within 0 and 1."""
    for name, value in _set(settings, names):
        if not 0 <= value <= 1:
            raise ConfigurationError(f"{name}: expected 0 to 1, found {value}")


def _set(settings: object, names: tuple[str, ...]) -> list[tuple[str, float]]:
    return [(name, value) for name in names if (value := getattr(settings, name)) is not None]
