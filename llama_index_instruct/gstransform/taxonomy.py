"""Summaries -> the names offered to the texts: cluster, name each against the others, merge what means the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import LabellingError
from llama_index_instruct.gstransform.clusters import cluster, cluster_count, merge_near_duplicates
from llama_index_instruct.gstransform.labelling import LabelSettings
from llama_index_instruct.rows import unit_rows
from llama_index_instruct.teacher.answers import answer_key
from llama_index_instruct.teacher.asking import Answers, Asker, Question
from llama_index_instruct.teacher.calls import BudgetSpentError, is_configuration_failure
from llama_index_instruct.teacher.parsing import parse_after
from llama_index_instruct.teacher.prompts import quotable
from llama_index_instruct.teacher.usage import Usage

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

FloatArray = npt.NDArray[np.float32]
NAME_CHARS = 80


@dataclass(frozen=True)
class Taxonomy:
    """The names offered to the texts, how many went into another one, and how many clusters got none."""

    categories: list[str]
    merged: int
    unnamed: int


def taxonomy_key(
    texts: Sequence[str], instruction: str, asker: Asker, embed_model: BaseEmbedding, settings: LabelSettings
) -> str:
    """Return the key under which the taxonomy of these texts is kept."""
    # Kept as a whole: were it made anew when one more summary comes in on a second run, every text would be classified again.
    versions = (settings.summarise.version, settings.name_cluster.version)
    numbers = (settings.clusters, settings.shown, settings.merge_above, settings.max_chars, settings.seed)
    fields = [instruction, embed_model.model_name, *versions, repr(numbers), *texts]
    return answer_key(asker.llm.metadata.model_name, "taxonomy", fields)


def kept_taxonomy(
    texts: Sequence[str], instruction: str, asker: Asker, embed_model: BaseEmbedding, settings: LabelSettings
) -> Taxonomy | None:
    """Return the taxonomy an earlier run made, or None."""
    kept = asker.answers.get(taxonomy_key(texts, instruction, asker, embed_model, settings))
    return None if kept is None else Taxonomy(**json.loads(kept))


def make_taxonomy(
    summaries: Sequence[str],
    vectors: FloatArray,
    instruction: str,
    asker: Asker,
    embed_model: BaseEmbedding,
    settings: LabelSettings,
) -> tuple[Taxonomy, Usage]:
    """Return the names for groups of summaries, and what naming cost."""
    groups = cluster(vectors, cluster_count(settings.clusters, len(summaries)), seed=settings.seed)
    names, usage = _name_clusters(summaries, groups, instruction, asker, settings)
    named = [name for name in names if name is not None]
    sizes = [int((groups == group).sum()) for group, name in enumerate(names) if name is not None]
    categories = merge_near_duplicates(named, sizes, embed(embed_model, named), settings.merge_above)
    if len(categories) < 2:
        raise LabellingError(
            f"expected two categories or more for {instruction!r}, found {categories}; is the question about these texts?"
        )
    return Taxonomy(categories, len(named) - len(categories), len(names) - len(named)), usage


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
    stop_if_hopeless(answers)
    return [short(parse_after(text, "Category:"), NAME_CHARS) for text in answers.texts], answers.usage


def short(words: str | None, max_chars: int) -> str | None:
    """Return words of an LLM fit to be shown to one again: bounded, without control tokens; None if nothing is left."""
    return quotable(words, max_chars).strip() or None if words else None


def stop_if_hopeless(answers: Answers, of: int = 0) -> None:
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


def embed(embed_model: BaseEmbedding, texts: Sequence[str]) -> FloatArray:
    """Return unit vectors of texts, shape (n, d)."""
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    return unit_rows(np.array(embed_model.get_text_embedding_batch(list(texts)), dtype=np.float32))
