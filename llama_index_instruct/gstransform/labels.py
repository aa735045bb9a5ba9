"""Texts + instruction + LLM -> labels (arXiv 2505.24754, section 3.1): summarise, cluster, name, classify."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError, LabellingError
from llama_index_instruct.gstransform.clusters import cluster, merge_near_duplicates
from llama_index_instruct.teacher.answers import answer_key
from llama_index_instruct.teacher.asking import Answers, Asker, Question
from llama_index_instruct.teacher.calls import BudgetSpentError, is_configuration_failure
from llama_index_instruct.teacher.parsing import match_category, parse_after
from llama_index_instruct.teacher.prompts import CLASSIFY, CLASSIFY_AGAIN, NAME_CLUSTER, SUMMARISE, Prompt, quotable
from llama_index_instruct.teacher.usage import Prices, Usage

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

FloatArray = npt.NDArray[np.float32]
SUMMARY_CHARS = 200
NAME_CHARS = 80
# Tokens of a summary or a category's line, as asked for.
LINE_TOKENS = 12


@dataclass(frozen=True)
class LabelSettings:
    """How labels are made from an instruction; defaults as released by the paper's authors where they say.

    Attributes:
        clusters: Groups of summaries, k; half the texts where there are fewer than twice as many.
        shown: Summaries shown per cluster, and from the others, when it is named.
        merge_above: Names whose embeddings have a cosine above this are one category; None = only names that are equal but for
            case and spaces.
        max_chars: Longest text shown to the LLM; the rest is cut.
        least_share: Share of texts that must get a label, else it is an error.
        seed: Of clustering and of the summaries shown.
        prompts: The four questions; a new one gets a new version by itself.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    clusters: int = 50
    shown: int = 25
    merge_above: float | None = 0.9
    max_chars: int = 4000
    least_share: float = 0.5
    seed: int = 42
    summarise: Prompt = SUMMARISE
    name_cluster: Prompt = NAME_CLUSTER
    classify: Prompt = CLASSIFY
    classify_again: Prompt = CLASSIFY_AGAIN

    def __post_init__(self) -> None:
        for name, least in (("clusters", 2), ("shown", 1), ("max_chars", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}: expected {least} or more, found {getattr(self, name)}")
        if self.merge_above is not None and not 0.0 < self.merge_above <= 1.0:
            raise ConfigurationError(f"merge_above: expected above 0 up to 1, or None, found {self.merge_above}")
        if not 0.0 <= self.least_share <= 1.0:
            raise ConfigurationError(f"least_share: expected 0 to 1, found {self.least_share}")


@dataclass(frozen=True)
class LabellingReport:
    """What labelling did and what it lost.

    Attributes:
        source: Where the labels come from: ``"llm"``, ``"given"``, ``"metadata"`` or ``"clusters"``.
        texts: How many were to be labelled.
        labelled: How many were.
        categories: Names offered to the texts, after merging.
        merged: Names that went into another one.
        without_summary: Texts whose summary was refused or failed; they are classified all the same.
        unnamed_clusters: Clusters whose name was refused or failed.
        invalid: First answers that were not in the list.
        healed: Of these, how many a second question put right.
        nearest: Of these, how many took the name nearest to their summary.
        dropped: Texts left without a label.
        failed_calls: Questions without any answer, whatever the reason.
        usage: Of the LLM.
        prompts: Versions of the prompts.
    """

    source: str
    texts: int
    labelled: int
    categories: tuple[str, ...] = ()
    merged: int = 0
    without_summary: int = 0
    unnamed_clusters: int = 0
    invalid: int = 0
    healed: int = 0
    nearest: int = 0
    dropped: int = 0
    failed_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    prompts: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it in a sentence or two."""
        words = f"{self.labelled} of {self.texts} texts labelled ({self.source})"
        if self.source != "llm":
            return words
        lost = (
            (self.without_summary, "without a summary"),
            (self.unnamed_clusters, "clusters without a name"),
            (self.merged, "names merged"),
            (self.invalid, "answers not in the list"),
            (self.healed, "of them healed by asking again"),
            (self.nearest, "of them given the nearest name"),
            (self.dropped, "texts dropped"),
            (self.failed_calls, "questions unanswered"),
        )
        detail = ", ".join(f"{count} {what}" for count, what in lost if count)
        cost = f"{self.usage.calls} calls, {self.usage.tokens} tokens, {self.usage.cached} answers from the checkpoint"
        return f"{words} into {len(self.categories)} categories; {detail or 'nothing lost'}; {cost}"


@dataclass(frozen=True)
class LabellingEstimate:
    """What labelling will cost, known before the first call; four characters count as a token.

    Attributes:
        calls: Questions, answers already paid for left out.
        prompt_tokens: To be read.
        completion_tokens: To be written.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int

    def cost(self, prices: Prices) -> float:
        """Return it in money."""
        return prices.cost(Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens))


def estimate_labelling(
    texts: Sequence[str], instruction: str, asker: Asker, embed_model: BaseEmbedding, settings: LabelSettings
) -> LabellingEstimate:
    """Return what ``label_with_llm`` will cost for these texts, second questions and retries left out."""
    summaries = _summary_questions(texts, instruction, settings)
    todo = _unknown(summaries, asker)
    clusters = _cluster_count(len(texts), settings)
    kept = _kept_taxonomy(texts, instruction, asker, embed_model, settings)
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
    vectors = _embed(embed_model, told)
    kept = _kept_taxonomy(texts, instruction, asker, embed_model, settings)
    naming = Usage()
    if kept is None:
        taxonomy, naming = _make_taxonomy(told, vectors, instruction, asker, embed_model, settings)
        key = _taxonomy_key(texts, instruction, asker, embed_model, settings)
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


@dataclass(frozen=True)
class _Taxonomy:
    """The names offered to the texts, how many went into another one, and how many clusters got none."""

    categories: list[str]
    merged: int
    unnamed: int


def _taxonomy_key(
    texts: Sequence[str], instruction: str, asker: Asker, embed_model: BaseEmbedding, settings: LabelSettings
) -> str:
    # Kept as a whole: were it made anew when one more summary comes in on a second run, every text would be classified again.
    versions = (settings.summarise.version, settings.name_cluster.version)
    numbers = (settings.clusters, settings.shown, settings.merge_above, settings.max_chars, settings.seed)
    fields = [instruction, embed_model.model_name, *versions, repr(numbers), *texts]
    return answer_key(asker.llm.metadata.model_name, "taxonomy", fields)


def _kept_taxonomy(
    texts: Sequence[str], instruction: str, asker: Asker, embed_model: BaseEmbedding, settings: LabelSettings
) -> _Taxonomy | None:
    kept = asker.answers.get(_taxonomy_key(texts, instruction, asker, embed_model, settings))
    return None if kept is None else _Taxonomy(**json.loads(kept))


def _make_taxonomy(
    summaries: Sequence[str],
    vectors: FloatArray,
    instruction: str,
    asker: Asker,
    embed_model: BaseEmbedding,
    settings: LabelSettings,
) -> tuple[_Taxonomy, Usage]:
    groups = cluster(vectors, _cluster_count(len(summaries), settings), seed=settings.seed)
    names, usage = _name_clusters(summaries, groups, instruction, asker, settings)
    named = [name for name in names if name is not None]
    sizes = [int((groups == group).sum()) for group, name in enumerate(names) if name is not None]
    categories = merge_near_duplicates(named, sizes, _embed(embed_model, named), settings.merge_above)
    if len(categories) < 2:
        raise LabellingError(
            f"expected two categories or more for {instruction!r}, found {categories}; is the question about these texts?"
        )
    return _Taxonomy(categories, len(named) - len(categories), len(names) - len(named)), usage


def _cluster_count(texts: int, settings: LabelSettings) -> int:
    return max(2, min(settings.clusters, texts // 2))


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
    _stop_if_hopeless(answers)
    # Summaries are shown to the LLM again: one line, of bounded length, without control tokens.
    return [_short(parse_after(text, "Summary:"), SUMMARY_CHARS) for text in answers.texts], answers.usage


def _name_clusters(
    summaries: Sequence[str], groups: npt.NDArray[np.intp], instruction: str, asker: Asker, settings: LabelSettings
) -> tuple[list[str | None], Usage]:
    generator = np.random.default_rng(settings.seed)
    questions = []
    for group in range(int(groups.max()) + 1):
        inside, outside = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        members = generator.permutation(inside)[: settings.shown]
        others = generator.permutation(outside)[: settings.shown]
        questions.append(
            Question(
                settings.name_cluster,
                {
                    "instruction": instruction,
                    "members": "\n".join(summaries[row] for row in members),
                    "others": "\n".join(summaries[row] for row in others),
                },
            )
        )
    answers = asker.ask(questions, label="naming clusters")
    _stop_if_hopeless(answers)
    return [_short(parse_after(text, "Category:"), NAME_CHARS) for text in answers.texts], answers.usage


def _short(words: str | None, max_chars: int) -> str | None:
    return quotable(words, max_chars).strip() or None if words else None


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
    _stop_if_hopeless(answers)
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
    _stop_if_hopeless(again, of=len(texts))
    for row, text in zip(invalid, again.texts, strict=True):
        labels[row] = match_category(parse_after(text, "Classification:"), categories)
    healed = sum(labels[row] is not None for row in invalid)
    left = [row for row in invalid if labels[row] is None and row in summary_vectors]
    if left:
        nearness = np.stack([summary_vectors[row] for row in left]) @ _embed(embed_model, categories).T
        for row, best in zip(left, nearness.argmax(axis=1), strict=True):
            labels[row] = categories[best]
    return _Outcome(labels, len(invalid), healed, len(left), answers.usage + again.usage)


def _stop_if_hopeless(answers: Answers, of: int = 0) -> None:
    """Raise where going on cannot help; the message holds neither texts nor keys."""
    errors = [error for error in answers.errors if error is not None]
    have = len(answers.texts) - len(errors)
    for error in errors:
        if is_configuration_failure(error):
            raise LabellingError(
                f"configuration: the LLM refused the request ({type(error).__name__}); check key, model and endpoint"
            ) from error
        if isinstance(error, BudgetSpentError):
            raise LabellingError(
                f"budget: used up after {have} of {len(answers.texts)} answers of this step; with checkpoint=... a second run "
                "goes on from here"
            ) from error
    # Of a few second questions all may fail without harm.
    if errors and not have and 2 * len(errors) >= of:
        raise LabellingError(
            f"none of {len(errors)} questions was answered ({type(errors[0]).__name__}); with checkpoint=... a second "
            "run goes on from the step before"
        ) from errors[0]


def _embed(embed_model: BaseEmbedding, texts: Sequence[str]) -> FloatArray:
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    vectors = np.array(embed_model.get_text_embedding_batch(list(texts)), dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0), dtype=np.float32)
