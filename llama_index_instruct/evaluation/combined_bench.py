"""The benchmark of the rooms together: GSTransform inside refinement, InBedder's clusters as GSTransform's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import Query, RetrievalSet, check_different_names
from llama_index_instruct.evaluation.drawing import draw_facets
from llama_index_instruct.evaluation.encoding import encode
from llama_index_instruct.evaluation.facets import Facet, FacetedCorpus
from llama_index_instruct.evaluation.gold_llm import GoldLLM
from llama_index_instruct.evaluation.indexed import DEPTH, IndexedSet, rows_of
from llama_index_instruct.evaluation.rag_bench import gold_llm
from llama_index_instruct.gstransform.embedding import TransformedEmbedding
from llama_index_instruct.gstransform.postprocessor import GSTransformPostprocessor
from llama_index_instruct.gstransform.retriever import GSTransformRetriever
from llama_index_instruct.gstransform.sources import ClusterLabels
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.models import short_name
from llama_index_instruct.refinement.retriever import RefinementRetriever
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.teacher.judge import RelevanceJudge

FloatArray = npt.NDArray[np.float32]
Retrieve = Callable[[str], list[NodeWithScore]]
CUTS = (10, DEPTH)


@dataclass(frozen=True)
class CombinedBench:
    """Settings of a run.

    Attributes:
        facets: Most facets of a corpus, drawn.
        sample: Texts whose labels, or clusters, teach a GSTransform; at most half of a facet's.
        collection: Most other texts that are searched.
        queries: Further texts that are searched with.
        judged: Passages judged per query, where there is a judge.
        clusters: Of InBedder's vectors.
        inbedder: The model.
        seed: Of the drawn texts and of clustering.
    """

    facets: int = 2
    sample: int = 500
    collection: int = 800
    queries: int = 20
    judged: int = 20
    clusters: int = 50
    inbedder: str = "inbedder-minilm"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("facets", 1),
            ("sample", 10),
            ("collection", 10),
            ("queries", 1),
            ("judged", 2),
            ("clusters", 2),
        ):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: expected {least} or more, found {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Drawn:
    """The texts of one facet, and who reads them.

    Attributes:
        data: Queries and the collection; relevant is what has the query's label.
        vectors: Of the collection, as stored, shape (n, d).
        sample: Texts that teach a GSTransform.
        sample_vectors: Theirs, shape (s, d).
        labels: Theirs.
        embed_model: Made the vectors.
        asking: Answers the facet's instruction.
    """

    data: RetrievalSet
    vectors: FloatArray
    sample: list[str]
    sample_vectors: FloatArray
    labels: list[str]
    embed_model: BaseEmbedding
    asking: InBedderEmbedding


def bench_combined(
    corpora: Sequence[FacetedCorpus],
    embed_model: BaseEmbedding,
    settings: CombinedBench,
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Return the record ``{"bench": "combined", "settings": ..., "facets": ..., "means": ...}``.

    Texts search for others of their label, under the facet's instruction. Per facet and way: ``p@10`` and ``p@100``, the share
    of the first hits that have the query's label, of those that could have it, in percent; and LLM ``calls`` per query.

    Args:
        corpora: Faceted corpora.
        embed_model: Made the stored vectors.
        settings: What is run.
        cache: Folder that keeps the vectors between runs.
        progress: Show progress bars.
    """
    check_different_names("data", [corpus.name for corpus in corpora])
    answering = InBedderEmbedding(settings.inbedder)
    facets: dict[str, Any] = {}
    for corpus in (draw_facets(corpus, settings.facets, settings.seed) for corpus in corpora):
        vectors = encode(embed_model, corpus.texts, queries=False, label=corpus.name, cache=cache, progress=progress)
        for facet in tqdm(corpus.facets, desc=f"{corpus.name}: combined", disable=not progress):
            drawn = _draw(corpus, facet, vectors, embed_model, answering.with_instruction(facet.instruction), settings)
            llm = gold_llm(drawn.data)
            with ExitStack() as open_sets:
                ways = _ways(drawn, llm, settings, cache, open_sets)
                facets[drawn.data.name] = {
                    "collection": len(drawn.vectors),
                    "sample": len(drawn.sample),
                    "queries": len(drawn.data.queries),
                    "ways": {name: _scored(way, drawn.data, llm) for name, way in ways.items()},
                }
    return {
        "bench": "combined",
        "settings": {**asdict(settings), "embed_model": short_name(embed_model.model_name)},
        "facets": facets,
        "means": _means(facets),
    }


def _draw(
    corpus: FacetedCorpus,
    facet: Facet,
    vectors: FloatArray,
    embed_model: BaseEmbedding,
    asking: InBedderEmbedding,
    settings: CombinedBench,
) -> Drawn:
    """Return a sample, a collection and queries without a text in common."""
    known = np.flatnonzero(facet.labels != "")
    firsts = {corpus.texts[row]: row for row in known[::-1].tolist()}
    order = np.random.default_rng(settings.seed).permutation(sorted(firsts.values()))
    sample, others = np.split(order, [min(settings.sample, len(order) // 2)])
    asked, collection = np.split(others, [min(settings.queries, len(others) // 2)])
    collection = collection[: settings.collection]
    labels = facet.labels[collection]
    # A label that the collection has not cannot be found.
    asked = asked[np.isin(facet.labels[asked], labels)]
    if not len(asked):
        raise ConfigurationError(f"{corpus.name}/{facet.name}: expected texts whose label others have too, found none")
    data = RetrievalSet(
        name=f"{corpus.name}/{facet.name}",
        queries=[Query(str(row), corpus.texts[row]) for row in asked.tolist()],
        document_ids=[str(row) for row in collection.tolist()],
        documents=[corpus.texts[row] for row in collection.tolist()],
        relevant=[np.flatnonzero(labels == facet.labels[row]) for row in asked],
        pools=None,
    )
    return Drawn(
        data,
        vectors[collection],
        [corpus.texts[row] for row in sample.tolist()],
        vectors[sample],
        facet.labels[sample].tolist(),
        embed_model,
        asking,
    )


def _ways(
    drawn: Drawn, llm: GoldLLM, settings: CombinedBench, cache: Path | None, open_sets: ExitStack
) -> dict[str, Retrieve]:
    """Return the parts alone and together: query text -> hits."""

    def search(vectors: FloatArray, embed_model: BaseEmbedding) -> BaseRetriever:
        return open_sets.enter_context(IndexedSet(drawn.data, vectors, embed_model)).retriever(0)

    def refined(retriever: BaseRetriever, **store: Any) -> RefinementRetriever:
        task = f"it has the same answer to: {drawn.asking.instruction}"
        judge = RelevanceJudge(llm, task=task)
        # No deadline: a busy machine must not change a ranking.
        return RefinementRetriever(retriever, judge=judge, judged=settings.judged, judge_deadline=None, **store)

    def encoded(embed_model: BaseEmbedding) -> FloatArray:
        texts = drawn.data.documents
        return encode(embed_model, texts, queries=False, label=drawn.data.name, cache=cache, progress=False)

    stored = search(drawn.vectors, drawn.embed_model)
    store = stored._vector_store  # type: ignore[attr-defined]
    answers = search(encoded(drawn.asking), drawn.asking)
    ways: dict[str, BaseRetriever] = {
        "plain": stored,
        "InBedder": answers,
        "refinement": refined(stored),
        "InBedder, refined": refined(answers),
    }
    if isinstance(drawn.embed_model, HuggingFaceEmbedding):
        prefix = f"{drawn.asking.instruction} "
        prefixed = HuggingFaceEmbedding(drawn.embed_model.model_name, query_instruction=prefix, text_instruction=prefix)
        ways["instruction as prefix"] = search(encoded(prefixed), prefixed)
    found: dict[str, Retrieve] = {name: way.retrieve for name, way in ways.items()}
    for taught_by, labels in _labels(drawn, settings).items():
        transform = GSTransform.from_labels(
            drawn.sample_vectors, labels, instruction=drawn.asking.instruction, unlabelled=drawn.vectors
        )
        inside = GSTransformRetriever(stored, transform=transform)
        moved = search(
            unit_rows(transform.transform(drawn.vectors)), TransformedEmbedding(drawn.embed_model, transform)
        )
        rerank = GSTransformPostprocessor(transform, vector_store=store, embed_model=drawn.embed_model)
        found |= {
            f"GSTransform by {taught_by}": inside.retrieve,
            f"GSTransform by {taught_by}, inside refinement": refined(
                inside, vector_store=store, embed_model=drawn.embed_model
            ).retrieve,
            f"collection transformed by {taught_by}, refined": refined(moved).retrieve,
            f"refinement, then postprocessor by {taught_by}": _reranked(ways["refinement"], rerank),
        }
    return found


def _labels(drawn: Drawn, settings: CombinedBench) -> dict[str, list[Any]]:
    """Return the sample's labels by where they come from."""
    nodes = [TextNode(text=text) for text in drawn.sample]
    clusters, _ = ClusterLabels(drawn.asking, settings.clusters, seed=settings.seed).label(
        nodes, drawn.asking.instruction
    )
    return {"gold labels": drawn.labels, "InBedder's clusters": clusters}


def _reranked(retriever: BaseRetriever, rerank: GSTransformPostprocessor) -> Retrieve:
    return lambda text: rerank.postprocess_nodes(retriever.retrieve(text), query_bundle=QueryBundle(text))


def _scored(way: Retrieve, data: RetrievalSet, llm: GoldLLM) -> dict[str, float]:
    calls = llm.spent.calls
    shares: dict[int, list[float]] = {cut: [] for cut in CUTS}
    for query, relevant in zip(data.queries, data.relevant, strict=True):
        right = np.isin(rows_of(way(query.text)), relevant)
        for cut in CUTS:
            shares[cut].append(right[:cut].sum() / min(cut, len(relevant)))
    precision = {f"p@{cut}": round(100.0 * float(np.mean(values)), 2) for cut, values in shares.items()}
    return precision | {"calls": round((llm.spent.calls - calls) / len(data.queries), 2)}


def _means(facets: dict[str, Any]) -> dict[str, dict[str, float]]:
    rows = [facet["ways"] for facet in facets.values()]
    return {
        way: {measure: round(float(np.mean([row[way][measure] for row in rows])), 2) for measure in rows[0][way]}
        for way in (rows[0] if rows else ())
    }
