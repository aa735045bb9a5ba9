"""Retrieval that follows instructions, for LlamaIndex and Qdrant.

Importing this package loads neither torch nor transformers nor qdrant_client; each name is imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index_instruct.errors import (
        ConfigurationError,
        DimensionMismatchError,
        InstructError,
        InstructWarning,
        JudgementTimeout,
        MissingExtraError,
        MissingVectorsError,
        RefinementError,
        TeacherError,
    )
    from llama_index_instruct.refinement.retriever import RefinementRetriever
    from llama_index_instruct.refinement.selection import SelectionSettings
    from llama_index_instruct.refinement.solvers import RefinedQuery, refine_query
    from llama_index_instruct.refinement.trace import JudgedNode, RefinementEvent, RefinementTrace
    from llama_index_instruct.teacher.judge import Judgements, RelevanceJudge
    from llama_index_instruct.teacher.standins import CallableJudge, PostprocessorJudge
    from llama_index_instruct.teacher.usage import Budget, Usage

__version__ = "0.1.0"

_HOMES = {
    "Budget": "teacher.usage",
    "CallableJudge": "teacher.standins",
    "ConfigurationError": "errors",
    "DimensionMismatchError": "errors",
    "InstructError": "errors",
    "InstructWarning": "errors",
    "JudgedNode": "refinement.trace",
    "JudgementTimeout": "errors",
    "Judgements": "teacher.judge",
    "MissingExtraError": "errors",
    "MissingVectorsError": "errors",
    "PostprocessorJudge": "teacher.standins",
    "RefinedQuery": "refinement.solvers",
    "RefinementError": "errors",
    "RefinementEvent": "refinement.trace",
    "RefinementRetriever": "refinement.retriever",
    "RefinementTrace": "refinement.trace",
    "RelevanceJudge": "teacher.judge",
    "SelectionSettings": "refinement.selection",
    "TeacherError": "errors",
    "Usage": "teacher.usage",
    "refine_query": "refinement.solvers",
}

__all__ = [
    "Budget",
    "CallableJudge",
    "ConfigurationError",
    "DimensionMismatchError",
    "InstructError",
    "InstructWarning",
    "JudgedNode",
    "JudgementTimeout",
    "Judgements",
    "MissingExtraError",
    "MissingVectorsError",
    "PostprocessorJudge",
    "RefinedQuery",
    "RefinementError",
    "RefinementEvent",
    "RefinementRetriever",
    "RefinementTrace",
    "RelevanceJudge",
    "SelectionSettings",
    "TeacherError",
    "Usage",
    "refine_query",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
