"""What scores candidates: a cross-encoder, an LLM judge, a LlamaIndex reranker, any callable, or the retriever itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.llms.llm import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import TextNode

from llama_index_instruct.errors import ConfigurationError, TeacherError
from llama_index_instruct.teacher.judge import RelevanceJudge
from llama_index_instruct.teacher.standins import Judge, as_judge

FloatArray = npt.NDArray[np.float64]
Score = Callable[[str, list[str]], FloatArray]
"""A query and k passages -> k raw scores, NaN = none."""


def as_scorer(teacher: Any) -> Score:
    """Return a teacher as one function.

    Args:
        teacher: A cross-encoder (anything with ``predict`` over pairs of texts), an ``LLM``, a ``RelevanceJudge``, a LlamaIndex
            node postprocessor that sets scores (taken as relevance in [0, 1]), or a callable ``(query, passages) -> scores``.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if callable(getattr(teacher, "predict", None)) and not isinstance(teacher, LLM):
        return _checked(
            lambda query, passages: teacher.predict([(query, p) for p in passages], show_progress_bar=False)
        )
    if isinstance(teacher, (LLM, BaseNodePostprocessor, Judge)):
        judge = as_judge(teacher)
        return _checked(lambda query, passages: judge.assess(query, [TextNode(text=p) for p in passages]).relevance)
    if callable(teacher):
        return _checked(teacher)
    raise ConfigurationError(
        "teacher: expected 'similarity', 'hybrid', a cross-encoder, an LLM, a RelevanceJudge, a node postprocessor or a "
        f"callable (query, passages) -> scores, found {teacher if isinstance(teacher, str) else type(teacher).__name__}"
    )


def teacher_name(teacher: Any) -> str:
    """Return what tells a teacher from others in a checkpoint; a callable is known by its name alone."""
    if isinstance(teacher, RelevanceJudge):
        return f"{_llm_name(teacher.llm)} {teacher.prompt.version} {teacher.task}"
    if isinstance(teacher, LLM):
        return teacher_name(RelevanceJudge(teacher))
    # A cross-encoder keeps its name in the model below it, a reranker of LlamaIndex's in its field.
    for owner in (teacher, getattr(teacher, "model", None), getattr(getattr(teacher, "_model", None), "model", None)):
        if isinstance(owner, str) and owner:
            return owner
        for attribute in ("model_name", "name_or_path", "__qualname__"):
            name = getattr(owner, attribute, None)
            if isinstance(name, str) and name:
                return name
    return type(teacher).__qualname__


def _llm_name(llm: LLM) -> str:
    return f"{llm.class_name()} {llm.metadata.model_name}"


def _checked(score: Callable[[str, list[str]], Any]) -> Score:
    def scores(query: str, passages: list[str]) -> FloatArray:
        if not passages:
            return np.empty(0)
        try:
            # A copy: what a teacher gave is its own.
            found = np.asarray(score(query, list(passages))).astype(np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise TeacherError(f"teacher: expected {len(passages)} numbers, found something else ({error})") from error
        if len(found) != len(passages):
            raise TeacherError(f"teacher: expected {len(passages)} scores, found {len(found)}")
        found[~np.isfinite(found)] = np.nan
        return found

    return scores


def scale_is_known(scores: Sequence[float] | FloatArray) -> bool:
    """Tell whether scores look like cosines or probabilities, and not like logits."""
    known = np.asarray(scores)[~np.isnan(scores)]
    return bool(known.size == 0 or np.abs(known).max() <= 1.0 + 1e-6)
