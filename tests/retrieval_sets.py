"""A small retrieval set, and retrieval sets as BEIR folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command_line import write_rows

from llama_index_instruct.evaluation.datasets import Query, RetrievalSet

THINGS = ("printer", "router", "watch", "laptop", "phone", "cable", "mouse", "screen")


def small_set(**changes: Any) -> RetrievalSet:
    """Eight orders, each with one relevant answer, all of them searched."""
    fields = {
        "name": "shop",
        "queries": [Query(f"q{i}", f"order {i}, {thing}") for i, thing in enumerate(THINGS)],
        "document_ids": [f"d{i}" for i in range(len(THINGS))],
        "documents": [f"{thing} answer" for thing in THINGS],
        "relevant": [np.array([i]) for i in range(len(THINGS))],
        "pools": None,
    }
    return RetrievalSet(**fields | changes)


def write_beir(folder: Path, data: RetrievalSet) -> Path:
    """Write a set for ``load_beir``."""
    instructed = [{"_id": query.id, "text": query.text, "instruction": query.instruction} for query in data.queries]
    write_rows(folder / "queries.jsonl", instructed)
    documents = zip(data.document_ids, data.documents, strict=True)
    write_rows(folder / "corpus.jsonl", [{"_id": id_, "text": text} for id_, text in documents])
    (folder / "qrels").mkdir()
    for name, rows, end in (("qrels/test.tsv", data.relevant, "\t1\n"), ("candidates.tsv", data.pools, "\n")):
        if rows is not None:
            pairs = [
                (query.id, data.document_ids[at]) for query, of in zip(data.queries, rows, strict=True) for at in of
            ]
            (folder / name).write_text("".join(f"{id_}\t{document}{end}" for id_, document in pairs), encoding="utf-8")
    return folder
