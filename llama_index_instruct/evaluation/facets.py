"""Faceted corpora on disk -> records: one text, several labels, each an instruction of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import find_file, open_text, read_jsonl


@dataclass(frozen=True, eq=False)
class Facet:
    """One way of looking at the texts.

    Attributes:
        name: As in the files.
        instruction: The question the labels answer.
        labels: Per text; empty = no label, the text does not take part.
    """

    name: str
    instruction: str
    labels: npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class FacetedCorpus:
    """Texts under several facets.

    Attributes:
        name: The folder's name.
        texts: n texts.
        facets: Each with n labels.
    """

    name: str
    texts: list[str]
    facets: list[Facet]


def load_facets(folder: Path | str) -> FacetedCorpus:
    """Return the corpus in a folder with ``NAME.jsonl`` (or ``.gz``), NAME being the folder's, and ``facets.json``.

    Raises:
        ConfigurationError: If a file is missing or malformed, or a facet has fewer than two labels.
    """
    root = Path(folder)
    name = root.resolve().name
    rows = list(read_jsonl(find_file(root, f"{name}.jsonl"), ("_id", "text")))
    path = find_file(root, "facets.json")
    try:
        with open_text(path) as file:
            described = json.load(file)
        instructions = {str(facet): str(value["instruction"]) for facet, value in described.items()}
    except (ValueError, OSError, EOFError, AttributeError, KeyError, TypeError) as error:
        raise ConfigurationError(f'{path}: expected {{"FACET": {{"instruction": "..."}}}}, found {error!r}') from error
    facets = []
    for facet, instruction in instructions.items():
        labels = np.array([str(row[facet]) if row.get(facet) is not None else "" for row in rows])
        if len(set(labels.tolist()) - {""}) < 2:
            raise ConfigurationError(f"{root}: facet {facet!r} has fewer than two labels")
        facets.append(Facet(facet, instruction, labels))
    return FacetedCorpus(name, [str(row["text"]) for row in rows], facets)
