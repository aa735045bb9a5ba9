"""Paragraph-question-answer triples: reading them, and what is kept of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.files import json_object, numbered_lines

_WORD = re.compile(r"\S+")
_FIELDS = ("paragraph", "question", "answer")


@dataclass(frozen=True)
class QATriple:
    """One training example.

    Attributes:
        paragraph: The text.
        question: The instruction.
        answer: What the embedding should stand for, a few words.
        group: Triples of one group are put into the same batch, where each is a hard negative of the others: several
            questions about one paragraph, or the texts of one domain. Empty: the paragraph itself.
        source: Where the triple comes from; listed in the model card.
        is_gist: The answer is the text itself: its embedding is learnt, and not its words.
    """

    paragraph: str
    question: str
    answer: str
    group: str = ""
    source: str = ""
    is_gist: bool = False


def read_triples(paths: Iterable[str | Path]) -> list[QATriple]:
    """Read JSONL files (gzip too) with the fields paragraph, question, answer, and optionally group and source.

    Raises:
        ConfigurationError: If a line is not such an object; the message names the file and the line.
    """
    return [_parse(line, place) for path in paths for place, line in numbered_lines(path)]


def _parse(line: bytes, place: str) -> QATriple:
    row = json_object(line, place)
    if not all(isinstance(row.get(name), str) and row[name].strip() for name in _FIELDS):
        raise ConfigurationError(f"{place}: expected non-empty strings {', '.join(_FIELDS)}, found {line[:60]!r}")
    paragraph, question, answer = (row[name] for name in _FIELDS)
    return QATriple(paragraph, question, answer, _name(row, "group"), _name(row, "source"))


def _name(row: dict[str, Any], key: str) -> str:
    return "" if row.get(key) is None else str(row[key])


def without_stopwords(answer: str, stopwords: Iterable[str]) -> str:
    """Drop stopwords, so that the first predicted token carries the answer (paper section 3.2).

    An answer of nothing but stopwords ("no", "her own") is kept whole.
    """
    dropped = set(stopwords)
    words = _WORD.findall(answer)
    kept = [word for word in words if word.lower().strip(".,;:!?'\"()") not in dropped]
    return " ".join(kept or words)


def groups_of(triples: Sequence[QATriple], largest: int) -> list[list[int]]:
    """Return the positions of the triples of each group, groups longer than ``largest`` cut into pieces."""
    members: dict[str, list[int]] = {}
    for i, triple in enumerate(triples):
        members.setdefault(triple.group or triple.paragraph, []).append(i)
    return [rows[at : at + largest] for rows in members.values() for at in range(0, len(rows), largest)]


def drawn(
    triples: Sequence[QATriple], *, limit: int | None = None, longest: int | None = None, seed: int = 0
) -> list[QATriple]:
    """Draw triples by whole paragraphs, so that several questions about one text stay together.

    Args:
        triples: All there are.
        limit: Stop at the paragraph that reaches this number; None: take all.
        longest: Leave out paragraphs of more words.
        seed: Of the order.
    """
    members: dict[str, list[QATriple]] = {}
    for triple in triples:
        if longest is None or len(triple.paragraph.split()) <= longest:
            members.setdefault(triple.paragraph, []).append(triple)
    paragraphs = list(members)
    chosen: list[QATriple] = []
    for i in np.random.default_rng(seed).permutation(len(paragraphs)).tolist():
        if limit is not None and len(chosen) >= limit:
            break
        chosen.extend(members[paragraphs[i]])
    return chosen
