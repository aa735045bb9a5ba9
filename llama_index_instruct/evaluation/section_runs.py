"""What the sections of the full report run, on how much of what, and how many of what stand behind their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index_instruct.evaluation.bench import RefinementBench, bench_refinement
from llama_index_instruct.evaluation.combined_bench import CombinedBench, bench_combined
from llama_index_instruct.evaluation.datasets import RetrievalSet
from llama_index_instruct.evaluation.facets import FacetedCorpus
from llama_index_instruct.evaluation.gstransform_bench import METHODS, GSTransformBench, bench_gstransform
from llama_index_instruct.evaluation.inbedder_bench import InBedderBench, bench_inbedder
from llama_index_instruct.evaluation.incontext_speed import bench_prefix_reuse
from llama_index_instruct.evaluation.mining_bench import Planted, bench_mining, gold_teacher
from llama_index_instruct.evaluation.rag_bench import RagBench, bench_rag
from llama_index_instruct.evaluation.speed import bench_solver_speed
from llama_index_instruct.evaluation.triplets import load_triplets
from llama_index_instruct.incontext.margins import RULES

Record = dict[str, Any]
# A judge that is wrong in one case of twenty: scripted, as no cross-encoder or LLM was at hand.
JUDGING_TEACHER = "gold:0.05"
MINING_RULES = {name: RULES[name] for name in ("topk", "adaptive", "verdict")}
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
        planted: Questions with hidden answers and hard negatives.
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
    planted: Sequence[Planted]
    embed_model: BaseEmbedding
    sizes: Sizes
    seed: int
    cross_encoder: str | None
    cache: Path
    progress: bool


def run_refinement(flip: float) -> Callable[[Materials], Record]:
    """Return the run of every refinement method over whole rankings, this share of the verdicts wrong."""

    def run(given: Materials) -> Record:
        settings = RefinementBench(flip=flip, seed=given.seed)
        record = bench_refinement(
            given.retrieval, given.embed_model, settings, cache=given.cache, progress=given.progress
        )
        if given.sizes.speed and not flip:
            record["solver_speed"] = bench_solver_speed()
        return record

    return run


def run_rag(flip: float) -> Callable[[Materials], Record]:
    """Return the run of what a user would pick, this share of the verdicts wrong; times are taken without wrong ones."""

    def run(given: Materials) -> Record:
        settings = replace(given.sizes.rag, flip=flip, cross_encoder=given.cross_encoder, seed=given.seed)
        if flip:
            settings = replace(settings, timed=0)
        return bench_rag(given.retrieval, given.embed_model, settings, cache=given.cache, progress=given.progress)

    return run


def run_gstransform(flip: float, methods: tuple[str, ...] = tuple(METHODS)) -> Callable[[Materials], Record]:
    """Return the run of these methods, of those the sizes allow, this share of the labels wrong."""

    def run(given: Materials) -> Record:
        chosen = tuple(name for name in methods if name in given.sizes.methods)
        settings = GSTransformBench(flip=flip, methods=chosen, seed=given.seed)
        return bench_gstransform(given.facets, given.embed_model, settings, cache=given.cache, progress=given.progress)

    return run


def run_inbedder(given: Materials) -> Record:
    """Score instructions against a blind encoder: triplets, clusters, speed."""
    triplets = [found for path in given.triplets for found in load_triplets(path, per_pair=given.sizes.triplets)]
    settings = InBedderBench(INBEDDER_MODELS, rows=given.sizes.clustered, seed=given.seed)
    return bench_inbedder(triplets, given.facets, settings, speed=given.sizes.speed, progress=given.progress)


def run_combined(given: Materials) -> Record:
    """Score the rooms alone and together."""
    settings = replace(given.sizes.combined, seed=given.seed)
    return bench_combined(given.facets, given.embed_model, settings, cache=given.cache, progress=given.progress)


def run_incontext(given: Materials) -> Record:
    """Time the reuse of a shared beginning."""
    sizes = {} if given.sizes.speed else {"queries": 4, "rounds": 1}
    return {"bench": "incontext", "speed": bench_prefix_reuse(**sizes)}


def run_mining(given: Materials) -> Record:
    """Apply the margin rules to the scores of a judge and of the two searches."""
    judge = gold_teacher(given.planted, JUDGING_TEACHER)
    teachers = {JUDGING_TEACHER: judge, "similarity": "similarity", "hybrid": "hybrid"}
    return {
        "bench": "mining",
        "teachers": {
            name: bench_mining(
                given.planted, MINING_RULES, embed_model=given.embed_model, teacher=teacher, progress=given.progress
            )
            | {"teacher": name}
            for name, teacher in teachers.items()
        },
    }


def count_planted(record: Record) -> str:
    """Return how many questions and passages stand behind ``run_mining``."""
    found = next(iter(record["teachers"].values()))
    return f"{found['questions']} questions, {found['passages']} passages"


def count_sets(record: Record) -> str:
    """Return how many queries and documents each retrieval set has."""
    sets = record.get("datasets") or record["sets"]
    return "; ".join(
        f"{name} {found['queries']} queries of {found['documents']} documents" for name, found in sets.items()
    )


def count_facets(record: Record) -> str:
    """Return how many texts of each facet were taught and scored."""
    return "; ".join(
        f"{name} {found['sample']} taught, {found['texts']} scored" for name, found in record["facets"].items()
    )


def count_inbedder(record: Record) -> str:
    """Return how many pairs of facets and texts stand behind ``run_inbedder``."""
    per_pair = f"{len(record['triplets'])} pairs of facets" if record["triplets"] else "no triplets"
    return f"{per_pair}; {len(record['clusters'])} facets, at most {record['settings']['rows']} texts of each"


def count_combined(record: Record) -> str:
    """Return how many queries, searched and taught texts each facet has."""
    return "; ".join(
        f"{name} {found['queries']} queries, {found['collection']} searched, {found['sample']} taught"
        for name, found in record["facets"].items()
    )
