"""The shipped corpus: complete, balanced, and hard for topic words."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import load_tickets

DATA = Path(__file__).parents[2] / "examples" / "data"
FACETS = {"product": 10, "issue": 8, "request": 7, "feeling": 7, "history": 5}
TICKETS, QUERIES = load_tickets(DATA)


def test_size_and_variety():
    assert len(TICKETS) >= 300 and len(QUERIES) >= 25
    texts = [ticket.text for ticket in TICKETS]
    assert len(set(texts)) == len(texts) and all(text.isascii() for text in texts)
    openings = Counter(" ".join(text.split()[:3]).lower() for text in texts)
    assert openings.most_common(1)[0][1] <= 5
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) <= 35 and max(lengths) >= 90


def test_every_facet_is_balanced():
    for facet, values in FACETS.items():
        counts = Counter(ticket.facets[facet] for ticket in TICKETS)
        assert len(counts) == values
        assert min(counts.values()) > 0.6 * len(TICKETS) / values


def test_facets_are_independent():
    for left, right in combinations(FACETS, 2):
        table = Counter((ticket.facets[left], ticket.facets[right]) for ticket in TICKETS)
        rows = Counter(ticket.facets[left] for ticket in TICKETS)
        columns = Counter(ticket.facets[right] for ticket in TICKETS)
        expected = {(a, b): rows[a] * columns[b] / len(TICKETS) for a in rows for b in columns}
        chi_square = sum((table[cell] - e) ** 2 / e for cell, e in expected.items())
        cramers_v = np.sqrt(chi_square / len(TICKETS) / (min(len(rows), len(columns)) - 1))
        assert cramers_v < 0.25, (left, right, cramers_v)


def test_relevance_is_what_the_criteria_say():
    for query in QUERIES:
        expected = {ticket.id for ticket in TICKETS if all(ticket.facets[k] in v for k, v in query.criteria.items())}
        assert query.relevant == expected
        assert 5 <= len(expected) <= 50


@pytest.mark.parametrize("name", ["tickets.jsonl", "queries.jsonl"])
def test_a_missing_file_is_named(tmp_path, name):
    for other in ("tickets.jsonl", "queries.jsonl"):
        if other != name:
            (tmp_path / other).write_text((DATA / other).read_text())
    with pytest.raises(ConfigurationError, match=name):
        load_tickets(tmp_path)
