"""Triplets on disk -> records: which of two texts is nearer depends on the instruction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.files import json_object, numbered_lines

_FIELDS = ("corpus", "facet_a", "facet_b", "instruction_a", "instruction_b", "anchor", "same_a", "same_b")


@dataclass(frozen=True)
class TripletSet:
    """The triplets of one corpus and one pair of facets.

    Under ``instruction_a`` the anchor must be nearer to its ``same_a``, under ``instruction_b`` to its ``same_b``.

    Attributes:
        name: ``"CORPUS:A/B"``.
        instruction_a: The question of facet A.
        instruction_b: The question of facet B.
        texts: Anchor, same_a and same_b of every triplet, one after the other.
    """

    name: str
    instruction_a: str
    instruction_b: str
    texts: list[str]


def load_triplets(path: Path | str, *, per_pair: int | None = None) -> list[TripletSet]:
    """Return the triplets of a JSONL file (gzip too), by corpus and pair of facets.

    Args:
        path: Rows with corpus, facet_a, facet_b, instruction_a, instruction_b, anchor, same_a, same_b.
        per_pair: Most triplets of one pair, the first ones; None: all.

    Raises:
        ConfigurationError: If the file is missing, empty or malformed.
    """
    if per_pair is not None and per_pair < 1:
        raise ConfigurationError(f"per_pair: expected 1 or more, found {per_pair}")
    sets: dict[str, TripletSet] = {}
    for place, line in numbered_lines(path):
        row = json_object(line, place)
        wrong = [name for name in _FIELDS if not isinstance(row.get(name), str) or not row[name].strip()]
        if wrong:
            raise ConfigurationError(f"{place}: expected non-empty strings, found {row.get(wrong[0])!r} as {wrong[0]}")
        name = f"{row['corpus']}:{row['facet_a']}/{row['facet_b']}"
        found = sets.setdefault(name, TripletSet(name, row["instruction_a"], row["instruction_b"], []))
        if (found.instruction_a, found.instruction_b) != (row["instruction_a"], row["instruction_b"]):
            raise ConfigurationError(f"{place}: expected one question per facet, {name} has several")
        if per_pair is None or len(found.texts) < 3 * per_pair:
            found.texts.extend((row["anchor"], row["same_a"], row["same_b"]))
    if not sets:
        raise ConfigurationError(f"{path}: expected triplets, found none")
    return list(sets.values())


def success(vectors: npt.NDArray[np.float32], *, wants_a: bool) -> float:
    """Return the share of triplets, in percent, whose anchor is strictly nearer to the right text by cosine.

    Args:
        vectors: Unit vectors of ``TripletSet.texts``, shape (3 n, d).
        wants_a: Whether ``same_a`` is the right one.
    """
    anchor, same_a, same_b = vectors[0::3], vectors[1::3], vectors[2::3]
    gap = np.einsum("ij,ij->i", anchor, same_a) - np.einsum("ij,ij->i", anchor, same_b)
    return 100.0 * float((gap > 0).mean() if wants_a else (gap < 0).mean())
