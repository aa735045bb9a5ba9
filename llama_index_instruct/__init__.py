"""Retrieval that follows instructions, for LlamaIndex and Qdrant.

Importing this package loads neither torch nor transformers nor qdrant_client; each name is imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index_instruct.errors import (
        CollectionError,
        ConfigurationError,
        DimensionMismatchError,
        IncompatibleStoreError,
        InstructError,
        InstructWarning,
        JudgementTimeout,
        LabellingError,
        MissingExtraError,
        MissingVectorsError,
        RefinementError,
        TeacherError,
        TransformFileError,
    )
    from llama_index_instruct.gstransform.collection import CollectionReport, transform_collection
    from llama_index_instruct.gstransform.contrastive import ContrastiveSettings
    from llama_index_instruct.gstransform.course import GSTransformEvent
    from llama_index_instruct.gstransform.embedding import TransformedEmbedding
    from llama_index_instruct.gstransform.fisher import FisherSettings
    from llama_index_instruct.gstransform.info import TransformInfo
    from llama_index_instruct.gstransform.labelling import LabellingReport, LabelSettings
    from llama_index_instruct.gstransform.pipeline import fit_gstransform
    from llama_index_instruct.gstransform.postprocessor import GSTransformPostprocessor
    from llama_index_instruct.gstransform.retriever import GSTransformRetriever
    from llama_index_instruct.gstransform.ridge import RidgeSettings
    from llama_index_instruct.gstransform.sampling import QdrantSource
    from llama_index_instruct.gstransform.sources import ClusterLabels, LabelSource, LLMLabels, MetadataLabels
    from llama_index_instruct.gstransform.transform import GSTransform
    from llama_index_instruct.inbedder.answering import AnswerEmbedding
    from llama_index_instruct.inbedder.embedding import InBedderEmbedding
    from llama_index_instruct.inbedder.training import train_inbedder
    from llama_index_instruct.inbedder.training_settings import InBedderTrainingSettings
    from llama_index_instruct.inbedder.triples import QATriple
    from llama_index_instruct.incontext.choosing import MiningSettings
    from llama_index_instruct.incontext.embedding import InContextEmbedding
    from llama_index_instruct.incontext.example_selection import nearest_examples
    from llama_index_instruct.incontext.groups import TrainingSet
    from llama_index_instruct.incontext.margins import MarginRule
    from llama_index_instruct.incontext.mined import MinedNegatives, MinedRow, MiningReport
    from llama_index_instruct.incontext.mining import HardNegativeMiner, mine_hard_negatives
    from llama_index_instruct.incontext.training import train_incontext
    from llama_index_instruct.incontext.training_settings import InContextTrainingSettings
    from llama_index_instruct.refinement.reliability import JudgeError, estimate_judge_error
    from llama_index_instruct.refinement.retriever import RefinementRetriever
    from llama_index_instruct.refinement.selection import SelectionSettings
    from llama_index_instruct.refinement.solvers import RefinedQuery, refine_query
    from llama_index_instruct.refinement.trace import JudgedNode, RefinementEvent, RefinementTrace
    from llama_index_instruct.spans import StageEvent
    from llama_index_instruct.teacher.judge import Judgements, RelevanceJudge
    from llama_index_instruct.teacher.standins import CallableJudge, PostprocessorJudge
    from llama_index_instruct.teacher.usage import Budget, Prices, Usage

__version__ = "0.1.0"

_HOMES = {
    "AnswerEmbedding": "inbedder.answering",
    "Budget": "teacher.usage",
    "CallableJudge": "teacher.standins",
    "ClusterLabels": "gstransform.sources",
    "CollectionError": "errors",
    "CollectionReport": "gstransform.collection",
    "ConfigurationError": "errors",
    "ContrastiveSettings": "gstransform.contrastive",
    "DimensionMismatchError": "errors",
    "FisherSettings": "gstransform.fisher",
    "GSTransform": "gstransform.transform",
    "GSTransformEvent": "gstransform.course",
    "GSTransformPostprocessor": "gstransform.postprocessor",
    "GSTransformRetriever": "gstransform.retriever",
    "HardNegativeMiner": "incontext.mining",
    "InBedderEmbedding": "inbedder.embedding",
    "InBedderTrainingSettings": "inbedder.training_settings",
    "InContextEmbedding": "incontext.embedding",
    "InContextTrainingSettings": "incontext.training_settings",
    "IncompatibleStoreError": "errors",
    "InstructError": "errors",
    "InstructWarning": "errors",
    "JudgeError": "refinement.reliability",
    "JudgedNode": "refinement.trace",
    "JudgementTimeout": "errors",
    "Judgements": "teacher.judge",
    "LLMLabels": "gstransform.sources",
    "LabelSettings": "gstransform.labelling",
    "LabelSource": "gstransform.sources",
    "LabellingError": "errors",
    "LabellingReport": "gstransform.labelling",
    "MarginRule": "incontext.margins",
    "MetadataLabels": "gstransform.sources",
    "MinedNegatives": "incontext.mined",
    "MinedRow": "incontext.mined",
    "MiningReport": "incontext.mined",
    "MiningSettings": "incontext.choosing",
    "MissingExtraError": "errors",
    "MissingVectorsError": "errors",
    "PostprocessorJudge": "teacher.standins",
    "Prices": "teacher.usage",
    "QATriple": "inbedder.triples",
    "QdrantSource": "gstransform.sampling",
    "RefinedQuery": "refinement.solvers",
    "RefinementError": "errors",
    "RefinementEvent": "refinement.trace",
    "RefinementRetriever": "refinement.retriever",
    "RefinementTrace": "refinement.trace",
    "RelevanceJudge": "teacher.judge",
    "RidgeSettings": "gstransform.ridge",
    "SelectionSettings": "refinement.selection",
    "StageEvent": "spans",
    "TeacherError": "errors",
    "TrainingSet": "incontext.groups",
    "TransformFileError": "errors",
    "TransformInfo": "gstransform.info",
    "TransformedEmbedding": "gstransform.embedding",
    "Usage": "teacher.usage",
    "estimate_judge_error": "refinement.reliability",
    "fit_gstransform": "gstransform.pipeline",
    "mine_hard_negatives": "incontext.mining",
    "nearest_examples": "incontext.example_selection",
    "refine_query": "refinement.solvers",
    "train_inbedder": "inbedder.training",
    "train_incontext": "incontext.training",
    "transform_collection": "gstransform.collection",
}

__all__ = [
    "AnswerEmbedding",
    "Budget",
    "CallableJudge",
    "ClusterLabels",
    "CollectionError",
    "CollectionReport",
    "ConfigurationError",
    "ContrastiveSettings",
    "DimensionMismatchError",
    "FisherSettings",
    "GSTransform",
    "GSTransformEvent",
    "GSTransformPostprocessor",
    "GSTransformRetriever",
    "HardNegativeMiner",
    "InBedderEmbedding",
    "InBedderTrainingSettings",
    "InContextEmbedding",
    "InContextTrainingSettings",
    "IncompatibleStoreError",
    "InstructError",
    "InstructWarning",
    "JudgeError",
    "JudgedNode",
    "JudgementTimeout",
    "Judgements",
    "LLMLabels",
    "LabelSettings",
    "LabelSource",
    "LabellingError",
    "LabellingReport",
    "MarginRule",
    "MetadataLabels",
    "MinedNegatives",
    "MinedRow",
    "MiningReport",
    "MiningSettings",
    "MissingExtraError",
    "MissingVectorsError",
    "PostprocessorJudge",
    "Prices",
    "QATriple",
    "QdrantSource",
    "RefinedQuery",
    "RefinementError",
    "RefinementEvent",
    "RefinementRetriever",
    "RefinementTrace",
    "RelevanceJudge",
    "RidgeSettings",
    "SelectionSettings",
    "StageEvent",
    "TeacherError",
    "TrainingSet",
    "TransformFileError",
    "TransformInfo",
    "TransformedEmbedding",
    "Usage",
    "estimate_judge_error",
    "fit_gstransform",
    "mine_hard_negatives",
    "nearest_examples",
    "refine_query",
    "train_inbedder",
    "train_incontext",
    "transform_collection",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
