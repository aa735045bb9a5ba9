"""The same of embedding models: what embedding must leave alone, and that it says the same twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import DIMENSION, ScriptedLLM, WordEmbedding
from inbedder import tiny
from incontext import decoders
from test_estimator_checks import fitted, random_states

from llama_index_instruct import AnswerEmbedding, InBedderEmbedding, InContextEmbedding, TransformedEmbedding


@pytest.fixture(scope="module")
def embedders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedders")
    local = {"dtype": "float32", "device": "cpu"}
    tiny.save("bert", folder / "bert")
    decoders.save("llama", folder / "llama")
    llm = ScriptedLLM(rule=lambda text: f"Answer: {text.split()[0]}" if text else "Answer: nothing")
    return {
        "inbedder": InBedderEmbedding(str(folder / "bert"), tiny.FEELING, **local),
        "incontext": InContextEmbedding(str(folder / "llama"), tiny.TOPIC, decoders.EXAMPLES, **local),
        "answers": AnswerEmbedding(llm, WordEmbedding(), tiny.FEELING),
        "transformed": TransformedEmbedding(WordEmbedding(), fitted(d=DIMENSION)),
    }


@pytest.fixture(params=["inbedder", "incontext", "answers", "transformed"])
def embedder(embedders, request):
    return embedders[request.param]


TEXTS = list(decoders.PASSAGES)


def embedded(embedder):
    return np.array([embedder.get_query_embedding(TEXTS[0]), *embedder.get_text_embedding_batch(TEXTS)])


def test_embedding_again_gives_the_same_bits(embedder):
    np.testing.assert_array_equal(embedded(embedder), embedded(embedder))


def test_a_text_twice_in_a_batch_has_one_vector(embedder):
    vectors = np.array(embedder.get_text_embedding_batch([*TEXTS, *TEXTS[::-1]]))
    np.testing.assert_allclose(vectors[: len(TEXTS)], vectors[: len(TEXTS) - 1 : -1], atol=1e-6)


def test_embedding_changes_nothing_of_the_embedder(embedder):
    before = embedder.to_dict()
    embedded(embedder)
    assert embedder.to_dict() == before


def test_embedding_changes_nothing_of_the_weights(embedders):
    for embedder, model in (
        (embedders["inbedder"], embedders["inbedder"].encoder.architecture.model),
        (embedders["incontext"], embedders["incontext"]._encoder.body),
    ):
        before = [parameter.clone() for parameter in model.parameters()]
        embedded(embedder)
        assert len(before) > 10 and not model.training
        for parameter, kept in zip(model.parameters(), before, strict=True):
            assert torch.equal(parameter, kept) and parameter.grad is None


def test_embedding_changes_nothing_of_the_process(embedder):
    def state():
        return (
            random_states(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
        )

    before = state()
    embedded(embedder)
    assert state() == before


def test_lists_that_are_given_or_returned_are_not_kept(embedder):
    expected = embedded(embedder)
    given = list(TEXTS)
    returned = embedder.get_text_embedding_batch(given)
    assert given == TEXTS
    for vector in returned:
        vector[:] = [0.0] * len(vector)
    given.clear()
    np.testing.assert_array_equal(embedded(embedder), expected)
