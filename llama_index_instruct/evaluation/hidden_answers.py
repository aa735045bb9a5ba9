"""Are the candidates that a margin removes really hidden answers? Where the answers are known, it can be counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llama_index_instruct.inbedder.triples import QATriple
from llama_index_instruct.incontext.choosing import rule_reasons
from llama_index_instruct.incontext.margins import find_rule
from llama_index_instruct.incontext.mined import MinedRow
from llama_index_instruct.incontext.mining import HardNegativeMiner

NO_EVIDENCE = ("yes", "no")
"""Answers that stand in any passage without answering anything."""


def known_answers(triples: Sequence[QATriple]) -> dict[str, set[str]]:
    """Return the answers of every question, without those that prove nothing."""
    answers: dict[str, set[str]] = {}
    for triple in triples:
        if triple.answer.lower() not in NO_EVIDENCE:
            answers.setdefault(triple.question, set()).add(triple.answer.lower())
    return answers


def share_holding(rows: Sequence[MinedRow], answers: Mapping[str, set[str]]) -> float:
    """Return how many of the negatives, in percent, hold an answer to their query in so many words."""
    return _percent(
        [_holds(text, answers[row.query]) for row in rows if row.query in answers for text in row.negatives]
    )


def removed_and_best(miner: HardNegativeMiner, rule: str, answers: Mapping[str, set[str]]) -> dict[str, float]:
    """Return the same share of the candidates a rule removes and of the ten best it keeps, and how often the teacher is right.

    The teacher is right about a question if no candidate scores above the known positive.
    """
    removed, kept, right = [], [], []
    for scored in miner.scored():
        if scored.query not in answers:
            continue
        reasons = rule_reasons(scored, find_rule(rule), miner.settings, miner.vectors)
        best_first = sorted(range(len(reasons)), key=lambda at: -scored.scores[at])
        holding = [_holds(miner.passages[row], answers[scored.query]) for row in scored.candidates]
        removed += [holding[at] for at in best_first if reasons[at]]
        kept += [holding[at] for at in best_first if not reasons[at]][:10]
        right.append(not len(scored.scores) or bool(scored.scores.max() <= scored.positive_scores.min()))
    return {
        "removed that hold an answer": _percent(removed),
        "ten best kept that hold an answer": _percent(kept),
        "questions the teacher gets right": _percent(right),
    }


def _holds(text: str, answers: set[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text.lower()) for answer in answers)


def _percent(found: Sequence[bool]) -> float:
    return 100.0 * sum(found) / len(found) if found else 0.0
