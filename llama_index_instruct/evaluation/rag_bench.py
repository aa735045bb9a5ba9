"""The benchmark of whole retrievers: every peer on the same collection, queries and LLM; one record comes back."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.embeddings.base import BaseEmbedding
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.bench import WORSE
from llama_index_instruct.evaluation.datasets import RetrievalSet, check_different_names
from llama_index_instruct.evaluation.drawing import draw_queries
from llama_index_instruct.evaluation.encoding import encode
from llama_index_instruct.evaluation.gold_llm import GoldLLM
from llama_index_instruct.evaluation.indexed import DEPTH, IndexedSet, rows_of
from llama_index_instruct.evaluation.metrics import ranking_measures
from llama_index_instruct.evaluation.rag_peers import RAG_PEERS, LeftOut, PeerInput, Retrieve
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.evaluation.timing import ForeignLoad, times_of
from llama_index_instruct.models import short_name
from llama_index_instruct.ranges import check_share

Rows = npt.NDArray[np.intp]
QUANTILES = (10, 25, 50, 75, 90)
# Queries whose waiting for the LLM is taken: it is really waited for.
WAITED = 3


@dataclass(frozen=True)
class RagBench:
    """Settings of a run.

    Attributes:
        peers: Names from ``RAG_PEERS``.
        queries: Most queries of a set, drawn once for all peers.
        judged: Passages judged per query, by those that judge.
        flip: Share of the LLM's verdicts that are turned over; the same ones for every peer.
        cross_encoder: Folder or name of a reranking model; None = none is at hand.
        timed: Queries that are timed; 0 = no times.
        rounds: Interleaved repetitions of the timed queries.
        delay: Seconds an answer takes where waiting is timed.
        token_delay: Seconds more per token of the answer.
        seed: Of the drawn queries, the turned verdicts and the adapter's pairs.
    """

    peers: tuple[str, ...] = tuple(RAG_PEERS)
    queries: int = 40
    judged: int = 20
    flip: float = 0.0
    cross_encoder: str | None = None
    timed: int = 5
    rounds: int = 3
    delay: float = 0.2
    token_delay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.peers) - set(RAG_PEERS))
        if unknown:
            raise ConfigurationError(f"peers: expected some of {', '.join(RAG_PEERS)}, found {', '.join(unknown)}")
        if self.queries < 1 or not 2 <= self.judged <= DEPTH:
            raise ConfigurationError(
                f"queries and judged: expected 1 or more and 2 to {DEPTH}, found {self.queries} and {self.judged}"
            )
        check_share(self, "flip")


def bench_rag(
    sets: Sequence[RetrievalSet],
    embed_model: BaseEmbedding,
    settings: RagBench,
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Return the record ``{"bench": "rag", "settings": ..., "sets": ..., "means": ...}``.

    Per set and peer: ``map@100``, ``ndcg@10``, share of queries made ``worse``, LLM ``calls`` and ``tokens`` per query (four
    characters a token), ``moved`` (ranks that relevant documents moved up: mean, quantiles and number; below 100 is rank 101);
    with times, ``cpu_ms`` and its ``ratio`` to plain retrieval, and ``ms``: CPU time and waiting for an LLM of the given
    delays.

    Args:
        sets: Evaluation sets.
        embed_model: Embeds queries and documents.
        settings: What is run.
        cache: Folder that keeps the vectors between runs.
        progress: Show progress bars.
    """
    check_different_names("data", [data.name for data in sets])
    sets_by_name = {data.name: draw_queries(data, settings.queries, settings.seed) for data in sets}
    found = {name: _bench_set(data, embed_model, settings, cache, progress) for name, data in sets_by_name.items()}
    return {
        "bench": "rag",
        "settings": {**asdict(settings), "embed_model": short_name(embed_model.model_name)},
        "sets": found,
        "means": _means(found),
    }


def gold_llm(data: RetrievalSet, **settings: Any) -> GoldLLM:
    """Return the LLM that knows a set's relevance judgements."""
    relevant: dict[str, list[str]] = {}
    for query, rows in zip(data.queries, data.relevant, strict=True):
        relevant.setdefault(query.embedded_text, []).extend(data.documents[row] for row in rows)
    return GoldLLM(relevant, data.documents, **settings)


def _bench_set(
    data: RetrievalSet, embed_model: BaseEmbedding, settings: RagBench, cache: Path | None, progress: bool
) -> dict[str, Any]:
    vectors = encode(
        embed_model, data.documents, queries=False, label=f"{data.name} documents", cache=cache, progress=progress
    )
    with IndexedSet(data, vectors, embed_model) as indexed:
        llm = gold_llm(data, flip=settings.flip, seed=settings.seed)
        given = PeerInput(indexed, llm, settings.judged, settings.cross_encoder, settings.seed)
        built = {name: RAG_PEERS[name](given) for name in dict.fromkeys(("plain", *settings.peers))}
        peers = {name: peer for name, peer in built.items() if not isinstance(peer, LeftOut)}
        rankings: dict[str, list[Rows]] = {}
        record: dict[str, Any] = {"queries": len(data.queries), "documents": len(data.documents), "peers": {}}
        for name, peer in tqdm(peers.items(), desc=f"{data.name}: peers", disable=not progress):
            before = llm.spent
            with one_thread():
                rankings[name] = [rows_of(peer(q)) for q in range(len(data.queries))]
            record["peers"][name] = {
                **_quality(rankings[name], rankings["plain"], data.relevant),
                "calls": round((llm.spent.calls - before.calls) / len(data.queries), 2),
                "tokens": round((llm.spent.tokens - before.tokens) / len(data.queries)),
            }
        if settings.timed:
            _add_times(record, peers, llm, settings)
    record["left_out"] = {name: peer.reason for name, peer in built.items() if isinstance(peer, LeftOut)}
    return record


def _quality(rankings: Sequence[Rows], plain: Sequence[Rows], relevant: Sequence[Rows]) -> dict[str, Any]:
    measures, before = ranking_measures(rankings, relevant), ranking_measures(plain, relevant)
    moved = np.concatenate([_moved(*rows) for rows in zip(plain, rankings, relevant, strict=True)])
    return {
        f"map@{DEPTH}": round(float(measures["map"].mean()), 4),
        "ndcg@10": round(float(measures["ndcg@10"].mean()), 4),
        "worse": round(float((measures["map"] < before["map"] - WORSE).mean()), 4),
        "moved": {
            "mean": round(float(moved.mean()), 2) if len(moved) else 0.0,
            "quantiles": np.percentile(moved, QUANTILES).round(1).tolist() if len(moved) else [0.0] * len(QUANTILES),
            "documents": len(moved),
        },
    }


def _moved(before: Rows, after: Rows, relevant: Rows) -> npt.NDArray[np.intp]:
    """Return by how many ranks each relevant document that either ranking found has moved up."""
    ranks = np.array([_ranks(before, relevant), _ranks(after, relevant)])
    found = (ranks <= DEPTH).any(axis=0)
    return np.asarray((ranks[0] - ranks[1])[found], dtype=np.intp)


def _ranks(ranking: Rows, rows: Rows) -> Rows:
    places = {row: place for place, row in enumerate(ranking.tolist(), start=1)}
    return np.array([places.get(row, DEPTH + 1) for row in rows.tolist()], dtype=np.intp)


def _add_times(record: dict[str, Any], peers: Mapping[str, Retrieve], llm: GoldLLM, settings: RagBench) -> None:
    queries = range(min(settings.timed, record["queries"]))
    # Bound now: the loop variable changes before the calls are made.
    variants = {name: lambda peer=peer: [peer(q) for q in queries] for name, peer in peers.items()}
    with ForeignLoad() as load:
        times = times_of(variants, base="plain", rounds=settings.rounds)
    record["foreign_cpus"] = load.cpus
    llm.delay, llm.token_delay = settings.delay, settings.token_delay
    for name, peer in peers.items():
        cpu_ms = times[name].pop("cpu_ms") / len(queries)
        with one_thread():
            waited_ms = statistics.median(_waited_ms(peer, q, llm) for q in queries[:WAITED])
        record["peers"][name] |= {"cpu_ms": round(cpu_ms, 2), **times[name], "ms": round(cpu_ms + waited_ms)}


def _waited_ms(peer: Retrieve, q: int, llm: GoldLLM) -> float:
    before = llm.waited
    peer(q)
    return 1000.0 * (llm.waited - before)


def _means(sets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return, per peer that no set leaves out, the mean of every plain number over the sets."""
    rows = [found["peers"] for found in sets.values()]
    return {
        peer: {
            measure: round(float(np.mean([row[peer][measure] for row in rows])), 4)
            for measure, value in rows[0][peer].items()
            if not isinstance(value, dict)
        }
        for peer in (rows[0] if rows else ())
        if all(peer in row for row in rows)
    }
