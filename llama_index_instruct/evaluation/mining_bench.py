"""Does a margin tell hidden positives from hard negatives? Both are planted, so it can be counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation.datasets import SHIPPED_DATA, read_jsonl
from llama_index_instruct.incontext.choosing import MiningSettings, ScoredQuery, rule_reasons
from llama_index_instruct.incontext.margins import MarginRule
from llama_index_instruct.incontext.mining import HardNegativeMiner
from llama_index_instruct.models import load_embed_model


@dataclass(frozen=True)
class Planted:
    """A question with an answer, other wordings of the answer, and passages near it that do not answer."""

    query: str
    positive: str
    paraphrases: tuple[str, ...]
    hard_negatives: tuple[str, ...]


def load_planted(path: Path | str) -> list[Planted]:
    """Read JSON lines with query, positive, paraphrases and hard_negatives.

    Raises:
        ConfigurationError: If a line is something else.
    """
    names = ("query", "positive", "paraphrases", "hard_negatives")
    return [
        Planted(row["query"], row["positive"], tuple(row["paraphrases"]), tuple(row["hard_negatives"]))
        for row in read_jsonl(Path(path), names)
    ]


def shipped_planted() -> list[Path]:
    """Return the file of the questions in ``examples/data``, in a list that is empty outside a checkout."""
    file = SHIPPED_DATA / "planted.jsonl"
    return [file] if file.is_file() else []


def gold_teacher(planted: Sequence[Planted], name: str) -> Callable[[str, list[str]], list[float]]:
    """Return a judge that knows which passages answer, and is wrong in a share of cases: ``"gold:0.05"``, 5 %.

    It shows what a margin does with the judgements of a teacher of that quality; it is no model.

    Raises:
        ConfigurationError: If the share is no number from 0 to 1.
    """
    share = name.partition(":")[2] or "0"
    try:
        wrong = float(share)
    except ValueError:
        wrong = -1.0
    if not 0.0 <= wrong <= 1.0:
        raise ConfigurationError(f"teacher: expected gold:SHARE with a share from 0 to 1, found {name!r}")
    answers = {row.query: {row.positive, *row.paraphrases} for row in planted}

    def judge(query: str, passages: list[str]) -> list[float]:
        scores = []
        for passage in passages:
            right = passage in answers[query]
            drawn = np.random.default_rng(list(hashlib.sha256(f"{query}\x1f{passage}".encode()).digest()[:8]))
            turned = drawn.random() < wrong and passage != next(r.positive for r in planted if r.query == query)
            # An LLM's probabilities are near 0 and 1, and never quite the same.
            scores.append(float((0.95 if right != turned else 0.05) + drawn.uniform(-0.04, 0.04)))
        return scores

    return judge


def bench_mining(
    planted: Sequence[Planted],
    rules: Mapping[str, MarginRule],
    *,
    embed_model: str | BaseEmbedding = "minilm",
    teacher: Any = "similarity",
    logits: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Return ``{"bench": "mining", "rules": {name: {"removed", "kept", "found"}}}`` in percent.

    ``removed``: of the planted hidden positives among the candidates; ``kept``: of the planted hard negatives among them;
    ``found``: of all planted passages that were candidates at all.

    Args:
        planted: Questions; the passages of all of them are searched.
        rules: By name.
        embed_model: For dense candidates.
        teacher: See ``mine_hard_negatives``.
        logits: Whether the teacher gives logits.
        progress: Show a progress bar.
    """
    if not planted:
        raise ConfigurationError("planted: expected questions, found none")
    passages = [text for row in planted for text in (row.positive, *row.paraphrases, *row.hard_negatives)]
    miner = HardNegativeMiner(
        [(row.query, row.positive) for row in planted],
        passages,
        embed_model=load_embed_model(embed_model) if isinstance(embed_model, str) else embed_model,
        teacher=teacher,
        settings=MiningSettings(logits=logits),
        progress=progress,
    )
    scored = list(miner.scored())
    return {
        "bench": "mining",
        "questions": len(planted),
        "passages": len(passages),
        "rules": {name: _shares(planted, scored, rule, miner) for name, rule in rules.items()},
    }


def _shares(
    planted: Sequence[Planted], scored: Sequence[ScoredQuery], rule: MarginRule, miner: HardNegativeMiner
) -> dict[str, float]:
    counts = {"hidden": 0, "removed": 0, "hard": 0, "kept": 0}
    for row, found in zip(planted, scored, strict=True):
        reasons = rule_reasons(found, rule, miner.settings, miner.vectors)
        for at, reason in zip(found.candidates, reasons, strict=True):
            text = miner.passages[at]
            if text in row.paraphrases:
                counts["hidden"] += 1
                counts["removed"] += bool(reason)
            elif text in row.hard_negatives:
                counts["hard"] += 1
                counts["kept"] += not reason
    total = sum(len(row.paraphrases) + len(row.hard_negatives) for row in planted)
    return {
        "removed": 100.0 * counts["removed"] / max(1, counts["hidden"]),
        "kept": 100.0 * counts["kept"] / max(1, counts["hard"]),
        "found": 100.0 * (counts["hidden"] + counts["hard"]) / total,
    }
