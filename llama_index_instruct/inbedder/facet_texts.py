"""Texts labelled on several facets -> training triples in which the question decides the answer.

A public question-answering set seldom asks two questions of the same kind about one text. Here every text answers
several, every question is asked of many texts, and both stand in one batch: the texts that share one facet's answer differ in
the others', which is what the embedding must learn to look past.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field, StrictStr, ValidationError

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.files import numbered_lines
from llama_index_instruct.inbedder.triples import QATriple

TEXTS_PER_GROUP = 16
LABELS_PER_GROUP = 5
OTHERS = 0.6
"""Share of a domain's other facets that a joined text also speaks of."""
COMPOSED = 0.6
"""Share of texts joined from sentences, where a domain has sentences; the others were written whole."""


@dataclass(frozen=True)
class Facet:
    """One question about the texts of a domain: its wordings, and per label the sentences that express it."""

    name: str
    questions: tuple[str, ...]
    sentences: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Domain:
    """Texts of one kind under several facets.

    Attributes:
        name: Of the domain.
        facets: At least two.
        texts: Whole texts, each with its label per facet name; a facet may be missing.
    """

    name: str
    facets: tuple[Facet, ...]
    texts: tuple[tuple[str, Mapping[str, str]], ...]


def read_domains(path: str | Path) -> list[Domain]:
    """Read a JSONL file (gzip too), one domain per line: ``{"domain", "facets": [{"name", "questions", "labels"}], "texts"}``.

    Raises:
        ConfigurationError: If a line is not such an object.
    """
    return [_domain(line, place) for place, line in numbered_lines(path)]


class _FacetRow(BaseModel):
    name: StrictStr
    questions: list[StrictStr] = Field(min_length=1)
    labels: dict[str, list[StrictStr]]


class _TextRow(BaseModel):
    text: StrictStr
    labels: dict[str, StrictStr]


class _DomainRow(BaseModel):
    domain: StrictStr
    facets: list[_FacetRow] = Field(min_length=2)
    texts: list[_TextRow]


def _domain(line: bytes, place: str) -> Domain:
    try:
        row = _DomainRow.model_validate_json(line)
    except ValidationError as error:
        raise ConfigurationError(
            f"{place}: expected a domain with facets and texts ({error.errors()[0]['msg']})"
        ) from error
    facets = (Facet(f.name, tuple(f.questions), {x: tuple(s) for x, s in f.labels.items()}) for f in row.facets)
    return Domain(row.domain, tuple(facets), tuple((text.text, text.labels) for text in row.texts))


def compose_triples(domains: Sequence[Domain], groups_per_domain: int, *, seed: int = 0) -> list[QATriple]:
    """Draw groups of texts and ask each text of a group the same two questions, in varying words.

    Args:
        domains: As read.
        groups_per_domain: Groups of up to ``2 * TEXTS_PER_GROUP`` triples per domain.
        seed: Same seed, same triples.
    """
    rng = np.random.default_rng(seed)
    triples: list[QATriple] = []
    for number in range(groups_per_domain):
        for domain in domains:
            triples.extend(_group(domain, f"{domain.name} #{number}, seed {seed}", rng))
    return triples


def _group(domain: Domain, group: str, rng: np.random.Generator) -> Iterator[QATriple]:
    chosen = [domain.facets[i] for i in rng.choice(len(domain.facets), 2, replace=False)]
    allowed = {facet.name: _some_labels(facet, rng) for facet in chosen}
    for text, labels in _texts(domain, chosen, allowed, rng):
        for facet in chosen:
            if facet.name in labels:
                yield QATriple(text, _pick(facet.questions, rng), labels[facet.name], group, domain.name)


def _some_labels(facet: Facet, rng: np.random.Generator) -> set[str]:
    labels = list(facet.sentences)
    return {labels[i] for i in rng.choice(len(labels), min(LABELS_PER_GROUP, len(labels)), replace=False)}


def _texts(
    domain: Domain, chosen: Sequence[Facet], allowed: Mapping[str, set[str]], rng: np.random.Generator
) -> Iterator[tuple[str, Mapping[str, str]]]:
    whole = [
        (text, labels)
        for text, labels in domain.texts
        if all(labels.get(facet.name) in allowed[facet.name] for facet in chosen)
    ]
    joinable = [facet for facet in domain.facets if any(facet.sentences.values())]
    can_join = all(any(facet.sentences.get(x) for x in allowed[facet.name]) for facet in chosen)
    for _ in range(TEXTS_PER_GROUP):
        if can_join and (not whole or rng.random() < COMPOSED):
            yield _joined(joinable, chosen, allowed, rng)
        elif whole:
            yield whole.pop(int(rng.integers(len(whole))))


def _joined(
    joinable: Sequence[Facet], chosen: Sequence[Facet], allowed: Mapping[str, set[str]], rng: np.random.Generator
) -> tuple[str, Mapping[str, str]]:
    others = [facet for facet in joinable if facet not in chosen and rng.random() < OTHERS]
    parts: list[tuple[str, str, str]] = []
    for facet in [*chosen, *others]:
        labels = [x for x, sentences in facet.sentences.items() if sentences and x in allowed.get(facet.name, {x})]
        if labels:
            label = _pick(labels, rng)
            parts.append((_pick(facet.sentences[label], rng), facet.name, label))
    parts = [parts[i] for i in rng.permutation(len(parts))]
    return " ".join(sentence for sentence, _, _ in parts), {name: label for _, name, label in parts}


def _pick(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]
