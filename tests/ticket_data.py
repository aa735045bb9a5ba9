"""The shipped tickets in the layout that `bench all` reads: a retrieval set, a faceted corpus and triplets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from llama_index_instruct.evaluation.datasets import load_tickets

SHIPPED = Path(__file__).parents[1] / "examples" / "data"
QUESTIONS = {"product": "Which product is the message about?", "feeling": "How does the writer feel?"}
PARTS = ("retrieval", "facets", "triplets")


def write_tickets(root: Path, *, parts: tuple[str, ...] = PARTS, candidates: bool = False) -> Path:
    """Write the parts and return the root; with candidates a query is ranked over the first half of the tickets."""
    tickets, queries = load_tickets(SHIPPED)
    if "retrieval" in parts:
        folder = root / "retrieval" / "tickets"
        (folder / "qrels").mkdir(parents=True)
        _write(folder / "corpus.jsonl", [{"_id": ticket.id, "text": ticket.text} for ticket in tickets])
        _write(folder / "queries.jsonl", [{"_id": query.id, "text": query.text} for query in queries])
        qrels = [f"{query.id}\t{id_}\t1" for query in queries for id_ in sorted(query.relevant)]
        (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]))
        if candidates:
            pool = [f"{query.id}\t{ticket.id}" for query in queries for ticket in tickets[: len(tickets) // 2]]
            (folder / "candidates.tsv").write_text("\n".join(["query-id\tdoc-id", *pool]))
    if "facets" in parts:
        folder = root / "facets" / "tickets"
        folder.mkdir(parents=True)
        _write(folder / "tickets.jsonl", [{"_id": t.id, "text": t.text, **t.facets} for t in tickets])
        described = {facet: {"instruction": question} for facet, question in QUESTIONS.items()}
        (folder / "facets.json").write_text(json.dumps(described))
    if "triplets" in parts:
        folder = root / "triplets" / "tickets"
        folder.mkdir(parents=True)
        row = {"corpus": "tickets", "facet_a": "product", "facet_b": "feeling"}
        row |= {"instruction_a": QUESTIONS["product"], "instruction_b": QUESTIONS["feeling"]}
        texts = [ticket.text for ticket in tickets[:9]]
        rows = [row | dict(zip(("anchor", "same_a", "same_b"), texts[i : i + 3], strict=True)) for i in (0, 3, 6)]
        (folder / "tickets.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return root


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
