"""The sections of the full report, in order: what each runs, prints, draws, and does and does not show.

A new section is one entry in ``SECTIONS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from llama_index_instruct.evaluation import section_words as words
from llama_index_instruct.evaluation.incontext_report import mining_table, reuse_table
from llama_index_instruct.evaluation.plots import plot_calls, plot_milliseconds, plot_moved, plot_nmi
from llama_index_instruct.evaluation.report import (
    combined_table,
    gstransform_table,
    inbedder_table,
    rag_table,
    refinement_table,
)
from llama_index_instruct.evaluation.section_runs import (
    Materials,
    Record,
    count_combined,
    count_facets,
    count_inbedder,
    count_planted,
    count_sets,
    run_combined,
    run_gstransform,
    run_inbedder,
    run_incontext,
    run_mining,
    run_rag,
    run_refinement,
)


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: In ``report.json`` and of ``--only``.
        title: Its heading.
        needs: Fields of ``Materials``; with none of them it is left out.
        run: Makes its record.
        table: Prints its record.
        counts: Record -> how many of what stand behind its numbers.
        words: What it shows, and what it does not.
        plots: File name -> draws the record.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    run: Callable[[Materials], Record]
    table: Callable[[Record, Console], None]
    counts: Callable[[Record], str]
    words: str
    plots: Mapping[str, Callable[[Record, Path], None]] = field(default_factory=dict)


def _mining_tables(record: Record, console: Console) -> None:
    for found in record["teachers"].values():
        mining_table(found, console)


SECTIONS: tuple[Section, ...] = (
    Section(
        "rag",
        "What a LlamaIndex user would pick",
        ("retrieval",),
        run_rag(0.0),
        rag_table,
        count_sets,
        words.RAG,
        {
            "quality-calls.png": plot_calls,
            "quality-milliseconds.png": plot_milliseconds,
            "ranks-moved.png": plot_moved,
        },
    ),
    Section(
        "rag-wrong",
        "The same, a tenth of the verdicts wrong",
        ("retrieval",),
        run_rag(0.1),
        rag_table,
        count_sets,
        words.RAG_WRONG,
    ),
    Section(
        "refinement",
        "Refinement, whole rankings, a perfect judge",
        ("retrieval",),
        run_refinement(0.0),
        refinement_table,
        count_sets,
        words.REFINEMENT,
    ),
    Section(
        "refinement-wrong",
        "Refinement, whole rankings, a tenth of the verdicts wrong",
        ("retrieval",),
        run_refinement(0.1),
        refinement_table,
        count_sets,
        words.REFINEMENT_WRONG,
    ),
    Section(
        "gstransform",
        "GSTransform, gold labels",
        ("facets",),
        run_gstransform(0.0),
        gstransform_table,
        count_facets,
        words.GSTRANSFORM,
        {"nmi-by-facet.png": plot_nmi},
    ),
    Section(
        "gstransform-wrong",
        "GSTransform, a fifth of the labels wrong",
        ("facets",),
        run_gstransform(0.2, ("plain", "fisher", "default-inductive", "default")),
        gstransform_table,
        count_facets,
        words.GSTRANSFORM_WRONG,
    ),
    Section(
        "inbedder",
        "InBedder: do the vectors follow the instruction?",
        ("triplets", "facets"),
        run_inbedder,
        inbedder_table,
        count_inbedder,
        words.INBEDDER,
    ),
    Section(
        "combined",
        "The rooms together",
        ("facets",),
        run_combined,
        combined_table,
        count_combined,
        words.COMBINED,
    ),
    Section(
        "incontext",
        "In-context embeddings: what reuse of the shared beginning saves",
        ("retrieval", "facets", "triplets"),
        run_incontext,
        reuse_table,
        lambda record: f"64 queries behind a beginning of {', '.join(record['speed'])} tokens",
        words.INCONTEXT,
    ),
    Section(
        "mining",
        "Hard negatives: are hidden answers removed, and hard ones kept?",
        ("planted",),
        run_mining,
        _mining_tables,
        count_planted,
        words.MINING,
    ),
)
