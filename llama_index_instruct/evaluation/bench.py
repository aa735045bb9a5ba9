"""The benchmark of refinement: every peer, the same queries, vectors and judge; one record comes back."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.embeddings.base import BaseEmbedding
from tqdm.auto import tqdm

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import RetrievalSet, check_different_names
from llama_index_instruct.evaluation.encoding import encode
from llama_index_instruct.evaluation.metrics import ranking_measures
from llama_index_instruct.evaluation.peers import (
    PEERS,
    QDRANT_DOCUMENTED,
    QDRANT_GRID,
    FeedbackWeights,
    Ranked,
    Task,
    judged_rounds,
    qdrant_feedback,
)
from llama_index_instruct.evaluation.qdrant_check import check_against_qdrant
from llama_index_instruct.evaluation.threads import one_thread
from llama_index_instruct.models import short_name
from llama_index_instruct.ranges import check_share
from llama_index_instruct.refinement.reliability import likeliest_error
from llama_index_instruct.teacher.judge import RelevanceJudge

Rows = npt.NDArray[np.intp]
FloatArray = npt.NDArray[np.float64]
# A query that loses more than this in average precision counts as made worse.
WORSE = 0.05


@dataclass(frozen=True)
class RefinementBench:
    """Settings of a run.

    Attributes:
        judge: ``"gold"``, or an LLM judge that is asked for real.
        flip: Probability that a gold judgement is turned over; the same ones for every method.
        judged: Judgements per query.
        rounds: Rounds they are spread over, where a method has rounds.
        methods: Names from ``PEERS``.
        seed: Of the flips.
        qdrant_queries: Queries per set whose rankings are run through a real Qdrant collection as well; 0 = none.
    """

    judge: str | RelevanceJudge = "gold"
    flip: float = 0.0
    judged: int = 20
    rounds: int = 2
    methods: tuple[str, ...] = tuple(PEERS)
    seed: int = 0
    qdrant_queries: int = 10

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(PEERS))
        if unknown:
            raise ConfigurationError(f"methods: expected some of {', '.join(PEERS)}, found {', '.join(unknown)}")
        if isinstance(self.judge, str) and self.judge != "gold":
            raise ConfigurationError(f"judge: expected 'gold' or a RelevanceJudge, found {self.judge!r}")
        if self.flip and self.judge != "gold":
            raise ConfigurationError("flip: turns gold judgements over; it cannot be used with an LLM judge")
        check_share(self, "flip")
        if self.judged < 1 or not 1 <= self.rounds <= self.judged:
            raise ConfigurationError(
                f"judged and rounds: expected 1 <= rounds <= judged, found {self.rounds} and {self.judged}"
            )


def bench_refinement(
    sets: Sequence[RetrievalSet],
    embed_model: BaseEmbedding,
    settings: RefinementBench,
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Return the record ``{"bench": "refinement", "settings": ..., "datasets": ...}``.

    Args:
        sets: Evaluation sets.
        embed_model: Embeds queries and documents.
        settings: What is run.
        cache: Folder that keeps the vectors between runs.
        progress: Show progress bars.
    """
    check_different_names("data", [data.name for data in sets])
    judge = settings.judge if isinstance(settings.judge, str) else settings.judge.llm.metadata.model_name
    return {
        "bench": "refinement",
        "settings": {
            **{k: v for k, v in asdict(_plain_data(settings)).items() if k != "judge"},
            "judge": judge,
            "embed_model": short_name(embed_model.model_name),
        },
        "datasets": {
            data.name: _bench_set(data, embed_model, settings, cache=cache, progress=progress) for data in sets
        },
    }


def _plain_data(settings: RefinementBench) -> RefinementBench:
    return RefinementBench(**{**vars(settings), "judge": "gold"})


def _bench_set(
    data: RetrievalSet,
    embed_model: BaseEmbedding,
    settings: RefinementBench,
    *,
    cache: Path | None,
    progress: bool,
) -> dict[str, Any]:
    documents = encode(
        embed_model,
        data.documents,
        queries=False,
        label=f"{data.name} documents",
        cache=cache,
        progress=progress,
    )
    queries = encode(
        embed_model,
        [query.embedded_text for query in data.queries],
        queries=True,
        label=f"{data.name} queries",
        cache=cache,
        progress=progress,
    )
    everything = np.arange(len(documents))
    pools = data.pools or [everything] * len(data.queries)
    tasks = [
        Task(
            query=queries[q],
            documents=documents[pools[q]],
            teacher=_teacher(data, q, pools[q], settings),
            judged=settings.judged,
            rounds=settings.rounds,
            text=data.queries[q].embedded_text,
            texts=[data.documents[row] for row in pools[q]] if data.pools else data.documents,
        )
        for q in range(len(data.queries))
    ]
    weights = {"qdrant-feedback": QDRANT_DOCUMENTED}
    with one_thread():
        ranked = {
            name: _rank_all(PEERS[name], tasks, f"{data.name} {name}", progress)
            for name in dict.fromkeys(("plain", *settings.methods))
        }
        if "qdrant-feedback" in settings.methods:
            weights["qdrant-feedback-best"], ranked["qdrant-feedback-best"] = _feedback_grid(
                tasks, data, pools, progress
            )
    average_precision: dict[str, FloatArray] = {}
    methods: dict[str, dict[str, Any]] = {}
    for name, results in ranked.items():
        measures = ranking_measures(
            [pool[result.rows] for pool, result in zip(pools, results, strict=True)], data.relevant
        )
        average_precision[name] = measures["map"]
        methods[name] = {
            "map": _mean(measures["map"]),
            "ndcg@10": _mean(measures["ndcg@10"]),
            "judgements": _mean(np.array([result.judgements for result in results])),
            "worse": _mean(measures["map"] < average_precision["plain"] - WORSE),
            "solve_ms": _median([result.solve_ms for result in results]),
            "prepare_ms": _median([result.prepare_ms for result in results]),
        }
        if name in weights:
            methods[name]["weights"] = weights[name]
    checked = check_against_qdrant(
        documents, pools, ranked, sample=settings.qdrant_queries, label=data.name, progress=progress
    )
    return {
        "queries": len(data.queries),
        "documents": len(documents),
        # Only where these very judgements were made anyway: an LLM's cost money.
        "judge_error": _judge_error(tasks) if "logistic" in settings.methods else None,
        "methods": {name: methods[name] for name in methods if name in settings.methods or name not in PEERS},
        "rankings_checked_in_qdrant": checked,
    }


def _judge_error(tasks: Sequence[Task]) -> dict[str, Any] | None:
    """Return what the judgements alone tell of how often the judge is wrong; None if nothing can be foretold."""
    foretold, answers = [], []
    for task in tasks:
        rounds, _ = judged_rounds(task, words=True)
        logits = rounds.refine("logistic").foretold
        known = ~np.isnan(logits)
        if known.any():
            foretold.append(logits[known])
            answers.append(rounds.relevance[known])
    return asdict(likeliest_error(foretold, answers)) if foretold else None


def _rank_all(peer: Callable[[Task], Ranked], tasks: Sequence[Task], label: str, progress: bool) -> list[Ranked]:
    return [peer(task) for task in tqdm(tasks, desc=label, disable=not progress)]


def _feedback_grid(
    tasks: Sequence[Task], data: RetrievalSet, pools: Sequence[Rows], progress: bool
) -> tuple[FeedbackWeights, list[Ranked]]:
    """Return Qdrant's feedback at the weights that do best on this very set: an upper bound of tuning it."""
    best: tuple[float, FeedbackWeights, list[Ranked]] | None = None
    for weights in tqdm(QDRANT_GRID, desc=f"{data.name} qdrant-feedback grid", disable=not progress):
        results = [qdrant_feedback(weights)(task) for task in tasks]
        rankings = [pool[result.rows] for pool, result in zip(pools, results, strict=True)]
        score = _mean(ranking_measures(rankings, data.relevant)["map"])
        if best is None or score > best[0]:
            best = (score, weights, results)
    assert best is not None
    return best[1], best[2]


def _teacher(data: RetrievalSet, q: int, pool: Rows, settings: RefinementBench) -> Callable[[Rows], FloatArray]:
    if isinstance(settings.judge, RelevanceJudge):
        query, judge = data.queries[q], settings.judge

        question = f"{query.text}\n{query.instruction}" if query.instruction else query.text
        answers: dict[int, float] = {}

        def ask(rows: Rows) -> FloatArray:
            # Each passage is judged once: every method works with the same answers, and nothing is paid for twice.
            new = [row for row in rows.tolist() if row not in answers]
            said = judge.judge(question, [data.documents[pool[row]] for row in new])
            answers.update(zip(new, said.tolist(), strict=True))
            return np.array([answers[row] for row in rows.tolist()])

        return ask
    gold = np.isin(pool, data.relevant[q])
    # Drawn for the whole pool at once: a passage gets the same, possibly wrong, judgement from every method.
    turned = np.random.default_rng([settings.seed, q]).random(len(pool)) < settings.flip

    def look_up(rows: Rows) -> FloatArray:
        return np.asarray((gold ^ turned)[rows], dtype=np.float64)

    return look_up


def _mean(values: npt.NDArray[Any]) -> float:
    return round(float(np.mean(values)), 4)


def _median(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return round(statistics.median(known), 3) if known else None
