"""The sections of the full report, in order: what each runs, prints, draws, and does and does not show.

A new section is one entry in ``SECTIONS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from rich.console import Console

from llama_index_instruct.evaluation import section_words as words
from llama_index_instruct.evaluation.bench import RefinementBench, bench_refinement
from llama_index_instruct.evaluation.combined_bench import CombinedBench, bench_combined
from llama_index_instruct.evaluation.datasets import RetrievalSet
from llama_index_instruct.evaluation.facets import FacetedCorpus
from llama_index_instruct.evaluation.gstransform_bench import METHODS, GSTransformBench, bench_gstransform
from llama_index_instruct.evaluation.inbedder_bench import InBedderBench, bench_inbedder
from llama_index_instruct.evaluation.incontext_report import reuse_table
from llama_index_instruct.evaluation.incontext_speed import bench_prefix_reuse
from llama_index_instruct.evaluation.plots import plot_calls, plot_milliseconds, plot_moved, plot_nmi
from llama_index_instruct.evaluation.rag_bench import RagBench, bench_rag
from llama_index_instruct.evaluation.report import (
    combined_table,
    gstransform_table,
    inbedder_table,
    rag_table,
    refinement_table,
)
from llama_index_instruct.evaluation.speed import bench_solver_speed
from llama_index_instruct.evaluation.triplets import load_triplets

Record = dict[str, Any]
INBEDDER_MODELS = ("minilm", "prefix:minilm", "inbedder-minilm")


@dataclass(frozen=True)
class Sizes:
    """How much of everything a report takes; the rest of the data is used whole.

    Attributes:
        documents: Most documents of a retrieval set; None = all. What is relevant stays.
        set_queries: Most queries of a retrieval set; None = all.
        texts: Most texts of a faceted corpus; None = all.
        rag: Settings of the whole retrievals.
        combined: Settings of the combinations.
        triplets: Of one pair of facets.
        clustered: Texts of a facet, under InBedder.
        methods: Of GSTransform.
        speed: Also time the solvers and the encoders.
    """

    documents: int | None = None
    set_queries: int | None = None
    texts: int | None = None
    rag: RagBench = field(default_factory=RagBench)
    combined: CombinedBench = field(default_factory=CombinedBench)
    triplets: int = 60
    clustered: int = 400
    methods: tuple[str, ...] = tuple(METHODS)
    speed: bool = True


FULL = Sizes()
QUICK = Sizes(
    documents=300,
    set_queries=6,
    texts=240,
    rag=RagBench(timed=1, rounds=1, delay=0.02, token_delay=0.0),
    combined=CombinedBench(facets=1, queries=4),
    triplets=5,
    clustered=40,
    methods=("plain", "fisher", "default"),
    speed=False,
)


@dataclass(frozen=True, eq=False)
class Materials:
    """What the sections are given.

    Attributes:
        retrieval: Retrieval sets.
        facets: Faceted corpora.
        triplets: Files of triplets.
        embed_model: Embeds queries and documents.
        sizes: How much of it is taken.
        seed: Of everything that is drawn.
        cross_encoder: Folder or name of a reranking model; None = none is at hand.
        cache: Folder for the vectors.
        progress: Show progress bars.
    """

    retrieval: Sequence[RetrievalSet]
    facets: Sequence[FacetedCorpus]
    triplets: Sequence[Path]
    embed_model: BaseEmbedding
    sizes: Sizes
    seed: int
    cross_encoder: str | None
    cache: Path
    progress: bool


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


def _refinement(flip: float) -> Callable[[Materials], Record]:
    def run(given: Materials) -> Record:
        settings = RefinementBench(flip=flip, seed=given.seed)
        record = bench_refinement(
            given.retrieval, given.embed_model, settings, cache=given.cache, progress=given.progress
        )
        if given.sizes.speed and not flip:
            record["solver_speed"] = bench_solver_speed()
        return record

    return run


def _rag(flip: float) -> Callable[[Materials], Record]:
    def run(given: Materials) -> Record:
        settings = replace(given.sizes.rag, flip=flip, cross_encoder=given.cross_encoder, seed=given.seed)
        if flip:
            settings = replace(settings, timed=0)
        return bench_rag(given.retrieval, given.embed_model, settings, cache=given.cache, progress=given.progress)

    return run


def _gstransform(flip: float, methods: tuple[str, ...] = tuple(METHODS)) -> Callable[[Materials], Record]:
    def run(given: Materials) -> Record:
        chosen = tuple(name for name in methods if name in given.sizes.methods)
        settings = GSTransformBench(flip=flip, methods=chosen, seed=given.seed)
        return bench_gstransform(given.facets, given.embed_model, settings, cache=given.cache, progress=given.progress)

    return run


def _inbedder(given: Materials) -> Record:
    triplets = [found for path in given.triplets for found in load_triplets(path, per_pair=given.sizes.triplets)]
    settings = InBedderBench(INBEDDER_MODELS, rows=given.sizes.clustered, seed=given.seed)
    return bench_inbedder(triplets, given.facets, settings, speed=given.sizes.speed, progress=given.progress)


def _combined(given: Materials) -> Record:
    settings = replace(given.sizes.combined, seed=given.seed)
    return bench_combined(given.facets, given.embed_model, settings, cache=given.cache, progress=given.progress)


def _incontext(given: Materials) -> Record:
    sizes = {} if given.sizes.speed else {"queries": 4, "rounds": 1}
    return {"bench": "incontext", "speed": bench_prefix_reuse(**sizes)}


def _count_sets(record: Record) -> str:
    sets = record.get("datasets") or record["sets"]
    return "; ".join(
        f"{name} {found['queries']} queries of {found['documents']} documents" for name, found in sets.items()
    )


def _count_facets(record: Record) -> str:
    return "; ".join(
        f"{name} {found['sample']} taught, {found['texts']} scored" for name, found in record["facets"].items()
    )


def _count_inbedder(record: Record) -> str:
    per_pair = f"{len(record['triplets'])} pairs of facets" if record["triplets"] else "no triplets"
    return f"{per_pair}; {len(record['clusters'])} facets, at most {record['settings']['rows']} texts of each"


def _count_combined(record: Record) -> str:
    return "; ".join(
        f"{name} {found['queries']} queries, {found['collection']} searched, {found['sample']} taught"
        for name, found in record["facets"].items()
    )


SECTIONS: tuple[Section, ...] = (
    Section(
        "rag",
        "What a LlamaIndex user would pick",
        ("retrieval",),
        _rag(0.0),
        rag_table,
        _count_sets,
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
        _rag(0.1),
        rag_table,
        _count_sets,
        words.RAG_WRONG,
    ),
    Section(
        "refinement",
        "Refinement, whole rankings, a perfect judge",
        ("retrieval",),
        _refinement(0.0),
        refinement_table,
        _count_sets,
        words.REFINEMENT,
    ),
    Section(
        "refinement-wrong",
        "Refinement, whole rankings, a tenth of the verdicts wrong",
        ("retrieval",),
        _refinement(0.1),
        refinement_table,
        _count_sets,
        words.REFINEMENT_WRONG,
    ),
    Section(
        "gstransform",
        "GSTransform, gold labels",
        ("facets",),
        _gstransform(0.0),
        gstransform_table,
        _count_facets,
        words.GSTRANSFORM,
        {"nmi-by-facet.png": plot_nmi},
    ),
    Section(
        "gstransform-wrong",
        "GSTransform, a fifth of the labels wrong",
        ("facets",),
        _gstransform(0.2, ("plain", "fisher", "default-inductive", "default")),
        gstransform_table,
        _count_facets,
        words.GSTRANSFORM_WRONG,
    ),
    Section(
        "inbedder",
        "InBedder: do the vectors follow the instruction?",
        ("triplets", "facets"),
        _inbedder,
        inbedder_table,
        _count_inbedder,
        words.INBEDDER,
    ),
    Section(
        "combined",
        "The rooms together",
        ("facets",),
        _combined,
        combined_table,
        _count_combined,
        words.COMBINED,
    ),
    Section(
        "incontext",
        "In-context embeddings: what reuse of the shared beginning saves",
        ("retrieval", "facets", "triplets"),
        _incontext,
        reuse_table,
        lambda record: f"64 queries behind a beginning of {', '.join(record['speed'])} tokens",
        words.INCONTEXT,
    ),
)
