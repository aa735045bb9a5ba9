"""Texts + instruction + LLM -> labels (arXiv 2505.24754, section 3.1): summarise, cluster, name, classify."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import LabellingError
from llama_index_instruct.gstransform.clusters import cluster_count
from llama_index_instruct.gstransform.labelling import LabellingEstimate, LabellingReport, LabelSettings
from llama_index_instruct.gstransform.taxonomy import (
    NAME_CHARS,
    embed,
    kept_taxonomy,
    make_taxonomy,
    short,
    stop_if_hopeless,
    taxonomy_key,
)
from llama_index_instruct.teacher.asking import Asker, Question
from llama_index_instruct.teacher.parsing import match_category, parse_after
from llama_index_instruct.teacher.prompts import quotable
from llama_index_instruct.teacher.usage import Usage

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

FloatArray = npt.NDArray[np.float32]
SUMMARY_CHARS = 200
# Tokens of a summary or a category's line, as asked for.
LINE_TOKENS = 12


def estimate_labelling(
    texts: Sequence[str], instruction: str, asker: Asker, embed_model: BaseEmbedding, settings: LabelSettings
) -> LabellingEstimate:
    """Return what ``label_with_llm`` will cost for these texts, second questions and retries left out."""
    summaries = _summary_questions(texts, instruction, settings)
    todo = _unknown(summaries, asker)
    clusters = cluster_count(settings.clusters, len(texts))
    kept = kept_taxonomy(texts, instruction, asker, embed_model, settings)
    if kept is not None:
        todo += _unknown(_class_questions(texts, instruction, kept.categories, settings), asker)
        tokens = sum(question.tokens for question in todo)
        return LabellingEstimate(len(todo), tokens, LINE_TOKENS * len(todo))
    calls = len(todo) + clusters + len(texts)
    naming = clusters * (200 + 2 * settings.shown * LINE_TOKENS)
    # The categories are not known yet: as many lines as clusters.
    classifying = sum(question.tokens for question in summaries) + len(texts) * clusters * LINE_TOKENS // 2
    tokens = sum(question.tokens for question in todo) + naming + classifying
    return LabellingEstimate(calls, tokens, LINE_TOKENS * calls)


def _unknown(questions: Sequence[Question], asker: Asker) -> list[Question]:
    return [question for question, known in zip(questions, asker.known(questions), strict=True) if known is None]


def label_with_llm(
    texts: Sequence[str], instruction: str, asker: Asker, embed_model: BaseEmbedding, settings: LabelSettings
) -> tuple[list[str | None], LabellingReport]:
    """Return a label per text, None where there is none, and what happened.

    About 2 n + k calls: a summary of each text through the instruction; k-means on the summaries' embeddings; a name for each
    cluster, against the others; and for each original text one of the names.

    Args:
        texts: n texts.
        instruction: The question the labels answer.
        asker: Asks the LLM and keeps the answers.
        embed_model: Embeds summaries and names.
        settings: See ``LabelSettings``.

    Raises:
        LabellingError: If the LLM refuses the requests, the budget is spent, fewer than two categories come out, or too few
            texts get a label. Answers so far stay with ``asker``.
    """
    summaries, usage = _summarise(texts, instruction, asker, settings)
    have = [row for row, summary in enumerate(summaries) if summary is not None]
    if len(have) < 4:
        raise LabellingError(f"expected summaries of at least 4 texts, found {len(have)} of {len(texts)}")
    told = [summaries[row] or "" for row in have]
    vectors = embed(embed_model, told)
    kept = kept_taxonomy(texts, instruction, asker, embed_model, settings)
    naming = Usage()
    if kept is None:
        taxonomy, naming = make_taxonomy(told, vectors, instruction, asker, embed_model, settings)
        key = taxonomy_key(texts, instruction, asker, embed_model, settings)
        asker.answers.put(key, json.dumps(asdict(taxonomy)))
    else:
        taxonomy = kept
    categories = taxonomy.categories
    by_row = dict(zip(have, vectors, strict=True))
    outcome = _classify(texts, by_row, categories, instruction, asker, embed_model, settings)
    labelled = sum(label is not None for label in outcome.labels)
    report = LabellingReport(
        source="llm",
        texts=len(texts),
        labelled=labelled,
        categories=tuple(categories),
        merged=taxonomy.merged,
        without_summary=len(texts) - len(have),
        unnamed_clusters=taxonomy.unnamed,
        invalid=outcome.invalid,
        healed=outcome.healed,
        nearest=outcome.nearest,
        dropped=len(texts) - labelled,
        failed_calls=usage.failures + naming.failures + outcome.usage.failures,
        usage=usage + naming + outcome.usage,
        prompts={
            prompt.name: prompt.version
            for prompt in (settings.summarise, settings.name_cluster, settings.classify, settings.classify_again)
        },
    )
    if labelled < settings.least_share * len(texts):
        raise LabellingError(f"too few labels: {report}")
    return outcome.labels, report


def _summary_questions(texts: Sequence[str], instruction: str, settings: LabelSettings) -> list[Question]:
    return [
        Question(settings.summarise, {"instruction": instruction, "text": quotable(text, settings.max_chars)})
        for text in texts
    ]


def _class_questions(
    texts: Sequence[str], instruction: str, categories: Sequence[str], settings: LabelSettings
) -> list[Question]:
    listed = "\n".join(categories)
    return [
        Question(
            settings.classify,
            {"instruction": instruction, "categories": listed, "text": quotable(text, settings.max_chars)},
        )
        for text in texts
    ]


def _summarise(
    texts: Sequence[str], instruction: str, asker: Asker, settings: LabelSettings
) -> tuple[list[str | None], Usage]:
    answers = asker.ask(_summary_questions(texts, instruction, settings), label="summarising")
    stop_if_hopeless(answers)
    # Summaries are shown to the LLM again: one line, of bounded length, without control tokens.
    return [short(parse_after(text, "Summary:"), SUMMARY_CHARS) for text in answers.texts], answers.usage


@dataclass(frozen=True)
class _Outcome:
    labels: list[str | None]
    invalid: int
    healed: int
    nearest: int
    usage: Usage


def _classify(
    texts: Sequence[str],
    summary_vectors: dict[int, FloatArray],
    categories: Sequence[str],
    instruction: str,
    asker: Asker,
    embed_model: BaseEmbedding,
    settings: LabelSettings,
) -> _Outcome:
    questions = _class_questions(texts, instruction, categories, settings)
    answers = asker.ask(questions, label="classifying")
    stop_if_hopeless(answers)
    said = [parse_after(text, "Classification:") for text in answers.texts]
    labels = [match_category(answer, categories) for answer in said]
    # What was not answered at all has had its retries; what was answered wrongly is asked once more.
    invalid = [row for row, text in enumerate(answers.texts) if text is not None and labels[row] is None]
    again = asker.ask(
        [
            Question(
                settings.classify_again,
                {**questions[row].fields, "answer": repr(quotable(said[row] or "", NAME_CHARS))},
            )
            for row in invalid
        ],
        label="classifying again",
    )
    stop_if_hopeless(again, of=len(texts))
    for row, text in zip(invalid, again.texts, strict=True):
        labels[row] = match_category(parse_after(text, "Classification:"), categories)
    healed = sum(labels[row] is not None for row in invalid)
    left = [row for row in invalid if labels[row] is None and row in summary_vectors]
    if left:
        nearness = np.stack([summary_vectors[row] for row in left]) @ embed(embed_model, categories).T
        for row, best in zip(left, nearness.argmax(axis=1), strict=True):
            labels[row] = categories[best]
    return _Outcome(labels, len(invalid), healed, len(left), answers.usage + again.usage)
