"""One function out of each kind of teacher."""

import numpy as np
import pytest
import torch
from fakes import BlockingLLM, ScriptedLLM
from inbedder.small_training import bert_tokenizer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification

from llama_index_instruct import ConfigurationError, RelevanceJudge, TeacherError
from llama_index_instruct.incontext.teachers import as_scorer, scale_is_known, teacher_name

QUERY = "happy with the printer"
PASSAGES = ["glad about paper", "furious laptop", "plain quiet signal cable"]


def save_cross_encoder(folder, *, seed=0, labels=1):
    """Save seeded random weights and their tokenizer."""
    torch.manual_seed(seed)
    tokenizer = bert_tokenizer()
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=labels, initializer_range=0.5, **size
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu")


class Lengths(BaseNodePostprocessor):
    """Scores a passage by its share of 100 characters, best first."""

    top_n: int = 10

    def _postprocess_nodes(self, nodes, query_bundle=None):
        assert query_bundle.query_str == QUERY
        for node in nodes:
            node.score = len(node.node.get_content()) / 100
        return sorted(nodes, key=lambda node: -node.score)[: self.top_n]


# each kind


def test_a_cross_encoder_scores_pairs(tmp_path):
    model = save_cross_encoder(tmp_path / "model")
    scores = as_scorer(model)(QUERY, PASSAGES)
    expected = model.predict([(QUERY, passage) for passage in PASSAGES], show_progress_bar=False)
    np.testing.assert_array_equal(scores, expected.astype(np.float64))
    assert len(set(scores)) == 3


def test_a_cross_encoder_with_several_labels_gives_too_many_scores(tmp_path):
    model = save_cross_encoder(tmp_path / "model", labels=2)
    with pytest.raises(TeacherError, match="teacher: expected 3 scores, found 6"):
        as_scorer(model)(QUERY, PASSAGES)


def yes_to_glad(passage):
    return 0.9 if "glad" in passage else 0.2


@pytest.mark.parametrize(
    "teacher", [ScriptedLLM(rule=yes_to_glad), RelevanceJudge(ScriptedLLM(rule=yes_to_glad))], ids=["LLM", "judge"]
)
def test_a_judge_gives_probabilities(teacher):
    np.testing.assert_allclose(as_scorer(teacher)(QUERY, PASSAGES), [0.9, 0.2, 0.2])


def test_what_a_judge_does_not_say_is_no_score():
    teacher = BlockingLLM(rule={"glad about paper": "yes", "furious laptop": "no"}.get)
    np.testing.assert_array_equal(as_scorer(teacher)(QUERY, PASSAGES), [1.0, 0.0, np.nan])


def test_a_node_postprocessor_scores_in_the_passages_order():
    np.testing.assert_array_equal(as_scorer(Lengths())(QUERY, PASSAGES), [0.16, 0.14, 0.24])


def test_what_a_node_postprocessor_drops_scores_lowest():
    np.testing.assert_array_equal(as_scorer(Lengths(top_n=1))(QUERY, PASSAGES), [0.0, 0.0, 0.24])


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda scores: np.float32(scores)[:, None]])
def test_a_callable_gives_numbers_in_any_shape(kind):
    def teacher(query, passages):
        assert query == QUERY and passages == PASSAGES
        return kind([3.0, -2.5, 0.5])

    scores = as_scorer(teacher)(QUERY, PASSAGES)
    assert scores.dtype == np.float64 and scores.tolist() == [3.0, -2.5, 0.5]


def test_no_passages_ask_nobody():
    assert as_scorer(lambda query, passages: 1 / 0)(QUERY, []).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_score(bad):
    np.testing.assert_array_equal(as_scorer(lambda *_: [0.5, bad, 0.1])(QUERY, PASSAGES), [0.5, np.nan, 0.1])


def test_a_teachers_own_array_is_left_as_it_is():
    own = np.array([0.5, np.inf, 0.1])
    as_scorer(lambda *_: own)(QUERY, PASSAGES)
    assert own[1] == np.inf


def test_an_array_that_may_not_be_written_to_is_fine():
    own = np.array([0.5, 0.2, 0.1])
    own.flags.writeable = False
    assert as_scorer(lambda *_: own)(QUERY, PASSAGES).tolist() == [0.5, 0.2, 0.1]


# what is refused


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_another_number_of_scores_is_an_error(count):
    with pytest.raises(TeacherError, match=f"teacher: expected 3 scores, found {count}"):
        as_scorer(lambda *_: [0.5] * count)(QUERY, PASSAGES)


@pytest.mark.parametrize(
    ("teacher", "named"), [("cosine", "cosine"), (None, "NoneType"), (3, "int"), ([0.5], "list"), ("", "")]
)
def test_anything_else_is_no_teacher(teacher, named):
    with pytest.raises(ConfigurationError, match=f"teacher: expected 'similarity', 'hybrid', .* found {named}$"):
        as_scorer(teacher)


@pytest.mark.parametrize("said", [["high", "low", "low"], [[1, 2], [3], [4]]])
def test_scores_that_are_no_numbers_are_an_error(said):
    with pytest.raises(TeacherError):
        as_scorer(lambda *_: said)(QUERY, PASSAGES)


# names in a checkpoint


def test_models_are_told_apart_by_model_prompt_and_task():
    llm = ScriptedLLM(rule=yes_to_glad)
    names = [teacher_name(teacher) for teacher in (llm, BlockingLLM(), RelevanceJudge(llm, task="only moods"))]
    assert len(set(names)) == 3 and names[0] == teacher_name(RelevanceJudge(llm))


def test_a_callable_is_known_by_its_name():
    assert teacher_name(yes_to_glad) == "yes_to_glad" and teacher_name(Lengths()) == "Lengths"


def test_cross_encoders_are_told_apart(tmp_path):
    one, other = (save_cross_encoder(tmp_path / str(seed), seed=seed) for seed in range(2))
    assert as_scorer(one)(QUERY, PASSAGES).tolist() != as_scorer(other)(QUERY, PASSAGES).tolist()
    assert teacher_name(one) != teacher_name(other)


# scales


@pytest.mark.parametrize(
    ("scores", "known"),
    [
        ([0.0, 1.0, -1.0], True),
        ([1.0 + 1e-7], True),
        ([], True),
        ([np.nan], True),
        ([1.01], False),
        ([0.5, -2.0], False),
    ],
)
def test_scores_beyond_one_are_of_no_known_scale(scores, known):
    assert scale_is_known(scores) is known
