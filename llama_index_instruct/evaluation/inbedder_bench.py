"""The benchmark of InBedder: do the vectors follow the instruction? One record comes back."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, StrictStr, TypeAdapter, ValidationError
from sklearn.cluster import KMeans
from sklearn.metrics import v_measure_score
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import check_different_names
from llama_index_instruct.evaluation.embedders import Embed, load_embedder, split_name
from llama_index_instruct.evaluation.facets import FacetedCorpus
from llama_index_instruct.evaluation.inbedder_speed import bench_encoder_speed
from llama_index_instruct.evaluation.triplets import TripletSet, success
from llama_index_instruct.files import read_text
from llama_index_instruct.models import short_name

Wordings = Mapping[str, Mapping[str, Sequence[str]]]
"""Per instruction, ``"paraphrases"`` of it and ``"wrong"`` questions about the same texts."""


Words = Annotated[list[Annotated[StrictStr, Field(min_length=1)]], Field(min_length=1)]


class _WordingsRow(BaseModel):
    paraphrases: Words
    wrong: Words


_Wordings = TypeAdapter(dict[str, _WordingsRow])


@dataclass(frozen=True)
class InBedderBench:
    """Settings of a run.

    Attributes:
        models: See ``load_embedder``.
        rows: Most texts of a facet that are clustered, drawn once for all models.
        seed: Of the drawing and of k-means.
    """

    models: tuple[str, ...]
    rows: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) < len(self.models):
            raise ConfigurationError(f"model: expected different models, at least one, found {list(self.models)}")
        if self.rows < 10:
            raise ConfigurationError(f"rows: expected 10 or more, found {self.rows}")


def bench_inbedder(
    triplets: Sequence[TripletSet],
    corpora: Sequence[FacetedCorpus],
    settings: InBedderBench,
    *,
    wordings: Wordings | None = None,
    speed: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Return ``{"bench": "inbedder", "settings", "triplets", "clusters", "robustness", "speed", "means"}``; scores in percent.

    Args:
        triplets: Scored by how often the anchor is nearer to the right text; a blind model has 50 in the mean.
        corpora: Clustered by k-means under the instruction of every facet, compared with the labels by v-measure.
        settings: What is run.
        wordings: Other wordings of the triplets' instructions; with them robustness is measured too.
        speed: Also time the models that answer.
        progress: Show progress bars.
    """
    names = [_short(model) for model in settings.models]
    check_different_names("model", names)
    check_different_names("facets", [corpus.name for corpus in corpora])
    check_different_names("triplets", [found.name for found in triplets])
    if wordings is not None:
        _check_wordings(triplets, wordings)
    record: dict[str, Any] = {"bench": "inbedder", "settings": asdict(settings), "triplets": {}, "clusters": {}}
    if wordings is not None:
        record["robustness"] = {}
    for model, name in zip(settings.models, names, strict=True):
        embed = load_embedder(model)
        for found in tqdm(triplets, desc=f"{name}: triplets", disable=not progress):
            record["triplets"].setdefault(found.name, {})[name] = _triplet_scores(found, embed)
            if wordings is not None:
                scores = _robustness(found, embed, wordings)
                record["robustness"].setdefault(found.name, {})[name] = scores
        for corpus in corpora:
            for facet in tqdm(corpus.facets, desc=f"{name}: {corpus.name}", disable=not progress):
                chosen = _drawn(facet.labels, settings)
                vectors = embed([corpus.texts[i] for i in chosen], facet.instruction)
                score = _clustered(vectors, facet.labels[chosen], settings.seed)
                record["clusters"].setdefault(f"{corpus.name}/{facet.name}", {})[name] = {"v_measure": score}
    answering = {n: m for n, m in zip(names, settings.models, strict=True) if not split_name(m)[0]}
    record["speed"] = bench_encoder_speed(answering) if speed else {}
    record["means"] = {name: _means(record, name) for name in names}
    return record


def load_wordings(path: Path | str) -> Wordings:
    """Read ``{instruction: {"paraphrases": [...], "wrong": [...]}}``.

    Raises:
        ConfigurationError: If the file is not of this form.
    """
    try:
        read = _Wordings.validate_json(read_text(path))
    except ValidationError as error:
        raise ConfigurationError(f"{path}: expected wordings per instruction ({error.errors()[0]['msg']})") from error
    return {question: row.model_dump() for question, row in read.items()}


def _short(model: str) -> str:
    way, name = split_name(model)
    return way + short_name(name)


def _check_wordings(triplets: Sequence[TripletSet], wordings: Wordings) -> None:
    for found in triplets:
        for instruction in (found.instruction_a, found.instruction_b):
            if instruction not in wordings:
                raise ConfigurationError(f"wordings: expected some for {instruction!r}, found none")


def _triplet_scores(found: TripletSet, embed: Embed) -> dict[str, float]:
    a = success(embed(found.texts, found.instruction_a), wants_a=True)
    b = success(embed(found.texts, found.instruction_b), wants_a=False)
    harmonic = 2 / (1 / a + 1 / b) if a > 0 and b > 0 else 0.0
    return {"a": a, "b": b, "mean": (a + b) / 2, "harmonic": harmonic}


def _robustness(found: TripletSet, embed: Embed, wordings: Wordings) -> dict[str, float]:
    """Return the mean score under each paraphrase in turn, the worst of them, and the mean under wrong questions."""
    sides = ((found.instruction_a, True), (found.instruction_b, False))
    scores: dict[str, list[list[float]]] = {
        kind: [
            [success(embed(found.texts, words), wants_a=wants_a) for words in wordings[instruction][kind]]
            for instruction, wants_a in sides
        ]
        for kind in ("paraphrases", "wrong")
    }
    per_wording = [statistics.fmean(pair) for pair in zip(*scores["paraphrases"], strict=False)]
    return {
        "paraphrased": statistics.fmean(per_wording),
        "worst": min(per_wording),
        "wrong": statistics.fmean(statistics.fmean(side) for side in scores["wrong"]),
    }


def _drawn(labels: Any, settings: InBedderBench) -> Any:
    known = np.flatnonzero(labels != "")
    order = np.random.default_rng(settings.seed).permutation(len(known))
    return known[np.sort(order[: settings.rows])]


def _clustered(vectors: Any, labels: Any, seed: int) -> float:
    found = KMeans(len(np.unique(labels)), n_init=10, random_state=seed).fit_predict(vectors)
    return 100.0 * float(v_measure_score(labels, found))


def _means(record: Mapping[str, Any], name: str) -> dict[str, float]:
    measures = (
        ("triplets", "mean"),
        ("triplets", "harmonic"),
        ("clusters", "v_measure"),
        ("robustness", "paraphrased"),
    )
    means = {}
    for part, measure in (*measures, ("robustness", "wrong")):
        rows = [row[name][measure] for row in record.get(part, {}).values()]
        if rows:
            means[f"{part} {measure}"] = statistics.fmean(rows)
    return means
