"""The benchmark of GSTransform: the same sample and labels for every method, scored on other texts; one record comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.adapter import pair_by_label, train_linear_adapter
from llama_index_instruct.evaluation.datasets import check_different_names
from llama_index_instruct.evaluation.encoding import encode
from llama_index_instruct.evaluation.facets import Facet, FacetedCorpus
from llama_index_instruct.evaluation.geometry import (
    Codes,
    FloatArray,
    clustering_nmi,
    draw_triplets,
    neighbour_precision,
    triplet_accuracy,
)
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.evaluation.timing import cpu_seconds
from llama_index_instruct.gstransform.fitting import Method
from llama_index_instruct.gstransform.sources import ClusterLabels
from llama_index_instruct.gstransform.transform import GSTransform
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.models import short_name
from llama_index_instruct.ranges import check_share
from llama_index_instruct.rows import unit_rows

# Below this many labelled rows, half of them are the sample.
SMALL = 6000
TRIPLETS = 10_000
RESULTS = 100
OVERFETCH = 3
SEARCHES = 1000
CLUSTERS = "clusters:"


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a method makes of the test texts.

    Attributes:
        documents: Their vectors, shape (n, h).
        queries: Their vectors as queries, shape (n, h); the same for methods that do not tell them apart.
        fit_s: CPU seconds of the fit, one thread.
        transform: The transform, where it is one.
    """

    documents: FloatArray
    queries: FloatArray
    fit_s: float
    transform: GSTransform | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """A labelled sample and the other texts.

    Attributes:
        sample: Vectors, shape (s, d).
        labels: Codes of the sample, wrong ones included, shape (s,).
        others: Vectors the methods are scored on, shape (n, d).
        codes: Their true labels, shape (n,).
        rows: Which texts of the corpus are the sample, shape (s,).
    """

    sample: FloatArray
    labels: Codes
    others: FloatArray
    codes: Codes
    rows: Codes


def _plain(split: Split) -> Fitted:
    return Fitted(split.others, split.others, 0.0)


def _gstransform(method: Method, *, with_others: bool = False) -> Callable[[Split], Fitted]:
    def fit(split: Split) -> Fitted:
        others = split.others if with_others else None
        seconds, transform = cpu_seconds(
            lambda: GSTransform.from_labels(split.sample, split.labels.tolist(), method=method, unlabelled=others)
        )
        moved = transform.transform(split.others)
        return Fitted(moved, moved, seconds, transform)

    return fit


def _linear_adapter(split: Split) -> Fitted:
    partner = pair_by_label(split.labels, seed=0)
    seconds, matrix = cpu_seconds(lambda: train_linear_adapter(split.sample, split.sample[partner]))
    return Fitted(split.others, split.others @ matrix.T, seconds)


METHODS: dict[str, Callable[[Split], Fitted]] = {
    "plain": _plain,
    "linear-adapter": _linear_adapter,
    "contrastive": _gstransform("contrastive"),
    "contrastive-mlp": _gstransform("contrastive-mlp"),
    "fisher": _gstransform("fisher"),
    "default-inductive": _gstransform("ridge"),
    "default": _gstransform("ridge", with_others=True),
}


@dataclass(frozen=True)
class GSTransformBench:
    """Settings of a run.

    Attributes:
        labels: ``"gold"``, or ``"clusters:MODEL"``: clusters of an InBedder's vectors under the instruction.
        clusters: How many.
        sample: Labelled texts; half the rows where a facet has fewer than 6,000.
        flip: Share of them whose label is replaced by another one; the same ones for every method.
        methods: Names from ``METHODS``.
        seed: Of split, flips and triplets.
    """

    labels: str = "gold"
    clusters: int = 50
    sample: int = 3000
    flip: float = 0.0
    methods: tuple[str, ...] = tuple(METHODS)
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise ConfigurationError(f"methods: expected some of {', '.join(METHODS)}, found {', '.join(unknown)}")
        if self.labels != "gold" and not self.labels.startswith(CLUSTERS):
            raise ConfigurationError(f"labels: expected 'gold' or 'clusters:MODEL', found {self.labels!r}")
        check_share(self, "flip")
        if self.sample < 10:
            raise ConfigurationError(f"sample: expected 10 or more, found {self.sample}")


def bench_gstransform(
    corpora: Sequence[FacetedCorpus],
    embed_model: BaseEmbedding,
    settings: GSTransformBench,
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Return the record ``{"bench": "gstransform", "settings": ..., "facets": ..., "means": ...}``.

    Every method gets the sample and its labels. ``default`` is also given the vectors of the other texts, without labels, as
    it has them in use, where the collection it will be applied to lies in the store; ``default-inductive`` is not.

    Args:
        corpora: Faceted corpora.
        embed_model: Embeds the texts.
        settings: What is run.
        cache: Folder that keeps the vectors between runs.
        progress: Show progress bars.
    """
    check_different_names("data", [corpus.name for corpus in corpora])
    facets: dict[str, Any] = {}
    answering = InBedderEmbedding(settings.labels.removeprefix(CLUSTERS)) if settings.labels != "gold" else None
    for corpus in corpora:
        vectors = encode(embed_model, corpus.texts, queries=False, label=corpus.name, cache=cache, progress=progress)
        for facet in corpus.facets:
            name = f"{corpus.name}/{facet.name}"
            split = _split(vectors, facet, settings)
            _check_size(split, name)
            if answering is not None:
                split = replace(split, labels=_clustered(corpus.texts, split, facet, answering, settings))
            facets[name] = _bench_facet(split, settings, label=name, progress=progress)
    return {
        "bench": "gstransform",
        "settings": {**asdict(settings), "embed_model": short_name(embed_model.model_name)},
        "facets": facets,
        "means": _means(facets),
    }


def _split(vectors: FloatArray, facet: Facet, settings: GSTransformBench) -> Split:
    known = np.flatnonzero(facet.labels != "")
    codes = np.unique(facet.labels[known], return_inverse=True)[1].astype(np.intp)
    generator = np.random.default_rng(settings.seed)
    order = generator.permutation(len(known))
    size = settings.sample if len(known) >= max(SMALL, 2 * settings.sample) else len(known) // 2
    sample, others = order[:size], order[size:]
    labels = codes[sample]
    wrong = generator.random(size) < settings.flip
    classes = int(codes.max()) + 1
    labels = np.where(wrong, (labels + generator.integers(1, classes, size)) % classes, labels)
    return Split(vectors[known[sample]], labels, vectors[known[others]], codes[others], known[sample])


def _clustered(
    texts: Sequence[str], split: Split, facet: Facet, model: InBedderEmbedding, settings: GSTransformBench
) -> Codes:
    """Return the clusters of the sample's answers to the facet's instruction, in the place of its labels."""
    nodes = [TextNode(text=texts[i]) for i in split.rows]
    source = ClusterLabels(model.with_instruction(facet.instruction), settings.clusters, seed=settings.seed)
    found, _ = source.label(nodes, facet.instruction)
    return np.unique([str(label) for label in found], return_inverse=True)[1].astype(np.intp)


def _check_size(split: Split, name: str) -> None:
    counts = np.bincount(split.codes)
    if len(split.codes) < 11 or (counts > 0).sum() < 2 or counts.max() < 2 or len(set(split.labels.tolist())) < 2:
        raise ConfigurationError(
            f"{name}: too small to be scored, expected 11 texts of two labels besides the sample, found {len(split.codes)} of "
            f"{int((counts > 0).sum())}"
        )


def _bench_facet(split: Split, settings: GSTransformBench, *, label: str, progress: bool) -> dict[str, Any]:
    triplets = draw_triplets(split.codes, TRIPLETS, settings.seed)
    methods: dict[str, Any] = {}
    fitted: dict[str, Fitted] = {}
    for name in tqdm(settings.methods, desc=label, disable=not progress):
        with one_thread():
            fitted[name] = METHODS[name](split)
        documents, queries = unit_rows(fitted[name].documents), unit_rows(fitted[name].queries)
        methods[name] = {
            # An adapter moves queries only; its clusters are those of the texts as queries, the only vectors it changes.
            "nmi": _percent(clustering_nmi(fitted[name].queries, split.codes)),
            "triplet": _percent(triplet_accuracy(queries, documents, triplets)),
            "p@10": _percent(neighbour_precision(queries, documents, split.codes, 10)),
            "fit_s": round(fitted[name].fit_s, 3),
        }
    record: dict[str, Any] = {"sample": len(split.sample), "texts": len(split.others), "methods": methods}
    transform = fitted["default"].transform if "default" in fitted else None
    if transform is not None:
        record[f"p@{RESULTS}"] = precision_of_searches(transform, split, seed=settings.seed)
    return record


def precision_of_searches(transform: GSTransform, split: Split, *, seed: int) -> dict[str, float]:
    """Return the precision at 100, in percent, of four ways to search the other texts with some of them as queries.

    ``plain``: cosine of the stored vectors. ``postprocessor``: its first 300, ordered by transformed cosine. ``retriever``: the
    first 300 by ``search_vector``, likewise. ``exact``: transformed cosine over all.
    """
    asked = np.random.default_rng(seed).permutation(len(split.others))[:SEARCHES]
    stored = unit_rows(split.others)
    moved = unit_rows(transform.transform(stored))
    candidates = min(OVERFETCH * RESULTS, len(stored) - 1)
    results = min(RESULTS, len(stored) - 1)
    right: dict[str, list[float]] = {"plain": [], "postprocessor": [], "retriever": [], "exact": []}
    for row in asked:
        plain, exact = stored @ stored[row], moved @ moved[row]
        searched = stored @ transform.search_vector(stored[row])
        for scores in (plain, exact, searched):
            scores[row] = -np.inf
        found = {
            "plain": _best(plain, results),
            "postprocessor": _rescored(_best(plain, candidates), exact, results),
            "retriever": _rescored(_best(searched, candidates), exact, results),
            "exact": _best(exact, results),
        }
        for way, rows in found.items():
            right[way].append(float((split.codes[rows] == split.codes[row]).mean()))
    return {way: _percent(float(np.mean(values))) for way, values in right.items()}


def _best(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    return np.argpartition(-scores, count - 1)[:count]


def _rescored(rows: npt.NDArray[np.intp], exact: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    return rows[_best(exact[rows], count)]


def _means(facets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return, per method, the mean of every measure over the facets."""
    rows = list(facets.values())
    return {
        method: {
            measure: round(float(np.mean([row["methods"][method][measure] for row in rows])), 3)
            for measure in rows[0]["methods"][method]
        }
        for method in (rows[0]["methods"] if rows else ())
    }


def _percent(share: float) -> float:
    return round(100.0 * share, 2)
