"""The benchmark of in-context embeddings: retrieval with 0, 1, 3, 5 examples in the prompt, and the speed of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import Query, RetrievalSet, check_different_names
from llama_index_instruct.evaluation.encoding import encode
from llama_index_instruct.evaluation.incontext_speed import bench_prefix_reuse
from llama_index_instruct.evaluation.ranking import mean_measures, rankings
from llama_index_instruct.incontext.embedding import InContextEmbedding
from llama_index_instruct.incontext.template import Example, find_template
from llama_index_instruct.models import load_embed_model, short_name
from llama_index_instruct.rows import unit_rows

TASK = "Given a query, retrieve passages that are relevant to it."


@dataclass(frozen=True)
class InContextBench:
    """Settings of a run.

    Attributes:
        models: Decoders, by folder or Hub name.
        examples: Numbers of examples. The longest list is drawn once per set, and its queries are left out of all scores.
        task: What a query is to find, for queries without an instruction of their own.
        template: See ``InContextEmbedding``.
        peer: A sentence encoder: as it is, and with task and examples written before the query.
        seed: Of the drawn examples.
    """

    models: tuple[str, ...]
    examples: tuple[int, ...] = (0, 1, 3, 5)
    task: str = TASK
    template: str = "lg-anna"
    peer: str = "minilm"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.examples or min(self.examples) < 0:
            raise ConfigurationError(f"examples: expected numbers of 0 or more, found {list(self.examples)}")
        find_template(self.template)


def bench_incontext(
    sets: Sequence[RetrievalSet],
    settings: InContextBench,
    *,
    cache: Path | None = None,
    speed: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Return ``{"bench": "incontext", "settings", "datasets", "means", "speed"}``; MAP and nDCG@10 in percent.

    Args:
        sets: To search.
        settings: What is run.
        cache: Folder that keeps the vectors of passages between runs.
        speed: Also time the reuse of the shared beginning.
        progress: Show progress bars.
    """
    check_different_names("data", [data.name for data in sets])
    record: dict[str, Any] = {"bench": "incontext", "settings": asdict(settings), "datasets": {}}
    for data in sets:
        examples, asked = split_examples(data, max(settings.examples), settings.seed)
        record["datasets"][data.name] = {
            "queries": len(asked.queries),
            "documents": len(asked.documents),
            "methods": dict(_methods(asked, examples, settings, cache, progress)),
        }
    record["means"] = {
        name: statistics.fmean(found["methods"][name]["map"] for found in record["datasets"].values())
        for name in next(iter(record["datasets"].values()))["methods"]
    }
    record["speed"] = bench_prefix_reuse() if speed else {}
    return record


def split_examples(data: RetrievalSet, count: int, seed: int) -> tuple[list[Example], RetrievalSet]:
    """Return examples, each a query with one of its relevant documents, and the set without these queries."""
    if count >= len(data.queries):
        raise ConfigurationError(
            f"{data.name}: expected more than {count} queries, as examples are left out; found them not"
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data.queries))[:count].tolist()
    examples = [
        (data.queries[i].text, data.documents[int(data.relevant[i][rng.integers(len(data.relevant[i]))])])
        for i in chosen
    ]
    kept = [i for i in range(len(data.queries)) if i not in set(chosen)]
    return examples, RetrievalSet(
        name=data.name,
        queries=[data.queries[i] for i in kept],
        document_ids=data.document_ids,
        documents=data.documents,
        relevant=[data.relevant[i] for i in kept],
        pools=None if data.pools is None else [data.pools[i] for i in kept],
    )


def _methods(
    data: RetrievalSet, examples: Sequence[Example], settings: InContextBench, cache: Path | None, progress: bool
) -> Iterable[tuple[str, dict[str, float]]]:
    peer = load_embed_model(settings.peer)
    documents = encode(
        peer, data.documents, queries=False, label=f"{data.name} documents", cache=cache, progress=progress
    )
    yield settings.peer, _scored(data, _embedded(peer, [q.embedded_text for q in data.queries]), documents)
    for count in settings.examples:
        shown = [_written(query, examples[:count], settings) for query in data.queries]
        yield f"{settings.peer}, prompt with {count}", _scored(data, _embedded(peer, shown), documents)
    for name in settings.models:
        short = short_name(name)
        model = InContextEmbedding(name, settings.task, template=settings.template)
        documents = encode(
            model, data.documents, queries=False, label=f"{data.name} {short}", cache=cache, progress=progress
        )
        for count in tqdm(settings.examples, desc=f"{data.name} queries, {short}", disable=not progress):
            queries = _in_context(model, data.queries, examples[:count], settings.task)
            yield f"{short}, {count} examples", _scored(data, queries, documents)


def _in_context(model: InContextEmbedding, queries: Sequence[Query], examples: Sequence[Example], task: str) -> Any:
    """Return the vectors of queries, each under its own instruction if it has one."""
    found: list[Any] = [None] * len(queries)
    for asked in dict.fromkeys(query.instruction or task for query in queries):
        rows = [i for i, query in enumerate(queries) if (query.instruction or task) == asked]
        vectors = model.with_task(asked, examples).get_query_embeddings([queries[i].text for i in rows])
        for row, vector in zip(rows, vectors, strict=True):
            found[row] = vector
    return np.array(found, dtype=np.float32)


def _written(query: Query, examples: Sequence[Example], settings: InContextBench) -> str:
    template, task = find_template(settings.template), query.instruction or settings.task
    return template.head(task, examples) + query.text + template.tail(task)


def _embedded(model: BaseEmbedding, texts: Sequence[str]) -> Any:
    return unit_rows(np.array([model.get_query_embedding(text) for text in texts], dtype=np.float32))


def _scored(data: RetrievalSet, queries: Any, documents: Any) -> dict[str, float]:
    return mean_measures(data, rankings(data, queries, documents))
