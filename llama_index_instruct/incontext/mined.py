"""What mining gives: rows with soft scores in the columns that sentence-transformers' trainer reads, and a report."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_index_instruct.errors import ConfigurationError, MissingExtraError
from llama_index_instruct.files import json_object, numbered_lines

if TYPE_CHECKING:
    from datasets import Dataset

Layout = Literal["n-tuple", "triplet", "labeled-list"]
SHOWN_PER_REASON = 3


@dataclass(frozen=True)
class MinedRow:
    """A query, a positive and its hard negatives.

    Attributes:
        query: The query.
        positive: A passage that answers it.
        negatives: Passages that do not, as far as the teacher can tell; highest score first.
        scores: The teacher's raw scores: of the positive, then of the negatives; empty = no soft labels.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.scores and len(self.scores) != 1 + len(self.negatives):
            raise ConfigurationError(
                f"scores: expected one of the positive and one of each negative, {1 + len(self.negatives)} in all, "
                f"found {len(self.scores)}"
            )


@dataclass(frozen=True)
class RemovedCandidate:
    """A candidate that was taken for no negative."""

    reason: str
    query: str
    positive: str
    candidate: str
    score: float
    positive_score: float


@dataclass
class MiningReport:
    """What was found and removed.

    Attributes:
        queries: Different queries.
        candidates: Passages scored beside the positives.
        removed: Per reason (see ``margins.REASONS``), how many.
        kept: Candidates that may be negatives.
        rows: Rows returned.
        dropped: Pairs left out because fewer negatives than asked for were left.
        shown: Some of the removed, the first per reason.
    """

    queries: int = 0
    candidates: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    rows: int = 0
    dropped: int = 0
    shown: list[RemovedCandidate] = field(default_factory=list)

    def show(self, removed: RemovedCandidate) -> None:
        """Keep a removed candidate as an example, if there are not enough of its reason."""
        if sum(found.reason == removed.reason for found in self.shown) < SHOWN_PER_REASON:
            self.shown.append(removed)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self) | {"removed": dict(self.removed)}


@dataclass(frozen=True)
class MinedNegatives:
    """Mined rows and how they came about."""

    rows: list[MinedRow]
    report: MiningReport

    def to_dataset(self, layout: Layout = "n-tuple") -> Dataset:
        """Return the rows as sentence-transformers' trainer reads them; see ``as_columns``."""
        return as_dataset(as_columns(self.rows, layout))

    def save(self, path: str | Path) -> None:
        """Write the rows as JSON lines, for ``read_mined``."""
        write_mined(path, self.rows)


def as_columns(rows: Sequence[MinedRow], layout: Layout = "n-tuple") -> dict[str, list[Any]]:
    """Return rows as columns.

    Args:
        rows: All with the same number of negatives, but for ``"labeled-list"``.
        layout: ``"n-tuple"``: query, positive, negative_1 ... negative_n, scores. ``"triplet"``: one row per negative.
            ``"labeled-list"``: query, documents, labels (1 for the positive), scores.

    Raises:
        ConfigurationError: If rows differ in their number of negatives, or some have scores and others not.
    """
    scored = {bool(row.scores) for row in rows}
    if len(scored) > 1:
        raise ConfigurationError("rows: expected soft scores in all rows or in none, found both")
    if layout == "labeled-list":
        columns: dict[str, list[Any]] = {
            "query": [row.query for row in rows],
            "documents": [[row.positive, *row.negatives] for row in rows],
            "labels": [[1] + [0] * len(row.negatives) for row in rows],
        }
        return columns | ({"scores": [list(row.scores) for row in rows]} if True in scored else {})
    if layout == "triplet":
        return as_columns([single for row in rows for single in _singles(row)])
    counts = {len(row.negatives) for row in rows}
    if len(counts) > 1:
        raise ConfigurationError(f"rows: expected the same number of negatives in all, found {sorted(counts)}")
    columns = {"query": [row.query for row in rows], "positive": [row.positive for row in rows]}
    for number in range(max(counts, default=0)):
        columns[f"negative_{number + 1}"] = [row.negatives[number] for row in rows]
    return columns | ({"scores": [list(row.scores) for row in rows]} if True in scored else {})


def as_dataset(columns: dict[str, list[Any]]) -> Dataset:
    """Return columns as a ``datasets.Dataset``.

    Raises:
        MissingExtraError: If the extra ``train`` is not installed.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise MissingExtraError("A training dataset", "train") from error
    return Dataset.from_dict(columns)


def write_mined(path: str | Path, rows: Iterable[MinedRow]) -> int:
    """Write rows as JSON lines as they come, and return how many; an older file stays until all are there.

    Raises:
        ConfigurationError: If the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigurationError(f"{path}: expected a file to write, found a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    count = 0
    with unfinished.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(asdict(row)) + "\n")
            count += 1
    unfinished.replace(path)
    return count


def read_mined(path: str | Path) -> list[MinedRow]:
    """Read what ``write_mined`` wrote (gzip too); rows of query and positive alone are plain pairs.

    Raises:
        ConfigurationError: If a line is something else; the message names file and line.
    """
    return [_parse(line, place) for place, line in numbered_lines(path)]


def _parse(line: bytes, place: str) -> MinedRow:
    row = json_object(line, place)
    negatives, scores = row.get("negatives") or [], row.get("scores") or []
    texts = [row.get("query"), row.get("positive"), *(negatives if isinstance(negatives, list) else [None])]
    numbers = scores if isinstance(scores, list) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts) or not all(_is_number(n) for n in numbers):
        raise ConfigurationError(
            f"{place}: expected query, positive, and optionally negatives (texts) and scores (numbers), found {line[:80]!r}"
        )
    try:
        return MinedRow(row["query"], row["positive"], tuple(negatives), tuple(map(float, scores)))
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from error


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of 400 digits
        return False


def _singles(row: MinedRow) -> Iterator[MinedRow]:
    for number, negative in enumerate(row.negatives):
        scores = (row.scores[0], row.scores[number + 1]) if row.scores else ()
        yield MinedRow(row.query, row.positive, (negative,), scores)
