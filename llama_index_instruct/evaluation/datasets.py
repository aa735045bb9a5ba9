"""Evaluation sets on disk -> records: BEIR folders, and this project's own tickets."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.files import json_object, numbered_lines

# Of a checkout; an installed package has none.
SHIPPED_DATA = Path(__file__).parents[2] / "examples" / "data"


@dataclass(frozen=True)
class Query:
    """A query of an evaluation set.

    Attributes:
        id: As in the relevance judgements.
        text: What is searched for.
        instruction: What counts as relevant, or an empty string.
    """

    id: str
    text: str
    instruction: str = ""

    @property
    def embedded_text(self) -> str:
        """Return what is embedded: the instruction, if any, before the text."""
        return f"{self.instruction}\n{self.text}" if self.instruction else self.text


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents and which go together.

    Attributes:
        name: The folder's name.
        queries: Those with at least one relevant document.
        document_ids: n of them.
        documents: Title and text, row i for ``document_ids[i]``.
        relevant: Per query, rows of the relevant documents.
        pools: Per query, rows it is ranked over; None = all documents.
    """

    name: str
    queries: list[Query]
    document_ids: list[str]
    documents: list[str]
    relevant: list[npt.NDArray[np.intp]]
    pools: list[npt.NDArray[np.intp]] | None


def check_different_names(what: str, names: Sequence[str]) -> None:
    """Raise a ``ConfigurationError`` where two of the names are one: in a record, the later would overwrite the earlier."""
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{what}: expected folders of different names, found {', '.join(names)}")


def load_beir(folder: Path | str, *, split: str = "test") -> RetrievalSet:
    """Return the set in a BEIR-style folder.

    ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/{split}.tsv`` are read, each also with ``.gz``. ``candidates.tsv``, if there
    is one, restricts each query to its own documents. A query's ``instruction`` field is kept.

    Args:
        folder: The folder.
        split: Which relevance judgements.

    Raises:
        ConfigurationError: If a file is missing or malformed, or no query has a relevant document; names file and line.
    """
    root = Path(folder)
    corpus = list(read_jsonl(find_file(root, "corpus.jsonl"), ("_id", "text")))
    ids = [str(row["_id"]) for row in corpus]
    row_of = {id_: row for row, id_ in enumerate(ids)}
    if len(row_of) < len(ids):
        raise ConfigurationError(f"{root}: corpus has {len(ids) - len(row_of)} repeated ids")
    relevant = _pairs(find_file(root, f"qrels/{split}.tsv"), row_of, positive_only=True)
    pools = None
    if _exists(root, "candidates.tsv"):
        pools = _pairs(find_file(root, "candidates.tsv"), row_of, positive_only=False)
    queries = [
        Query(str(row["_id"]), str(row["text"]), str(row.get("instruction") or ""))
        for row in read_jsonl(find_file(root, "queries.jsonl"), ("_id", "text"))
        if str(row["_id"]) in relevant
    ]
    if not queries:
        raise ConfigurationError(f"{root}: no query has a relevant document in the corpus")
    return RetrievalSet(
        name=root.resolve().name,
        queries=queries,
        document_ids=ids,
        documents=[f"{row.get('title') or ''} {row['text']}".strip() for row in corpus],
        relevant=[np.array(sorted(relevant[query.id]), dtype=np.intp) for query in queries],
        pools=None
        if pools is None
        else [np.array(sorted(pools.get(q.id, set()) | relevant[q.id]), dtype=np.intp) for q in queries],
    )


@dataclass(frozen=True)
class Ticket:
    """A customer message with its value on each facet."""

    id: str
    text: str
    facets: dict[str, str]


@dataclass(frozen=True)
class TicketQuery:
    """A query over the tickets, the facet values it stands for, and the tickets that have them."""

    id: str
    text: str
    criteria: dict[str, list[str]]
    relevant: frozenset[str]


def load_tickets(folder: Path | str) -> tuple[list[Ticket], list[TicketQuery]]:
    """Return the shipped corpus: ``tickets.jsonl`` and ``queries.jsonl`` of ``examples/data``.

    Raises:
        ConfigurationError: If a file is missing or malformed.
    """
    root = Path(folder)
    tickets = [
        Ticket(row["_id"], row["text"], {k: v for k, v in row.items() if k not in ("_id", "text")})
        for row in read_jsonl(find_file(root, "tickets.jsonl"), ("_id", "text"))
    ]
    queries = [
        TicketQuery(row["_id"], row["text"], row["criteria"], frozenset(row["relevant"]))
        for row in read_jsonl(find_file(root, "queries.jsonl"), ("_id", "text", "criteria", "relevant"))
    ]
    return tickets, queries


def _exists(root: Path, name: str) -> bool:
    return (root / name).is_file() or (root / f"{name}.gz").is_file()


def find_file(root: Path, name: str) -> Path:
    """Return the file of that name, or with ``.gz``; a ``ConfigurationError`` says what was expected."""
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise ConfigurationError(f"{root}: expected {name} or {name}.gz, found neither")


def open_text(path: Path) -> TextIO:
    """Open a file of UTF-8 text, compressed if it ends in ``.gz``."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def read_jsonl(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; a malformed line is a ``ConfigurationError`` that names it."""
    for place, line in numbered_lines(path):
        row = json_object(line, place)
        missing = [name for name in required if name not in row]
        if missing:
            raise ConfigurationError(f"{place}: missing {', '.join(missing)}")
        yield row


def _pairs(path: Path, row_of: dict[str, int], *, positive_only: bool) -> dict[str, set[int]]:
    """Read ``query-id``, ``corpus-id`` and maybe ``score``; pairs with documents outside the corpus are left out."""
    pairs: dict[str, set[int]] = {}
    with open_text(path) as lines:
        for number, fields in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if not fields or (number == 1 and fields[0] in ("query-id", "query_id", "qid")):
                continue
            if len(fields) < 2 + positive_only:
                raise ConfigurationError(
                    f"{path}, line {number}: expected {2 + positive_only} columns, found {len(fields)}"
                )
            if positive_only and not _is_positive(fields[2], path, number):
                continue
            if fields[1] in row_of:
                pairs.setdefault(fields[0], set()).add(row_of[fields[1]])
    return pairs


def _is_positive(score: str, path: Path, number: int) -> bool:
    try:
        return float(score) > 0
    except ValueError as error:
        raise ConfigurationError(
            f"{path}, line {number}: expected a number as third column (query-id, corpus-id, score), found {score!r}"
        ) from error
