import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct import ConfigurationError, DimensionMismatchError, refine_query
from llama_index_instruct.evaluation.peers import Task, feedback_vector, kl_reference
from llama_index_instruct.refinement.logistic import LogisticPrior, fit_logistic
from llama_index_instruct.refinement.objectives import logistic_loss
from llama_index_instruct.refinement.settings import MAX_ANGLE, make_settings

METHODS = ("logistic", "kl", "rocchio")


def problem(seed=0, k=20, d=48):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=d)
    query /= np.linalg.norm(query)
    topic = rng.normal(size=d) / math.sqrt(d)
    relevance = (rng.random(k) < 0.4).astype(float)
    relevance[:2] = 1.0, 0.0
    noise = rng.normal(size=(k, d)) / math.sqrt(d)
    passages = query + noise + 0.5 * relevance[:, None] * topic
    return query, passages / np.linalg.norm(passages, axis=1, keepdims=True), relevance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_relevant_passages_rise(method, seed):
    query, passages, relevance = problem(seed)
    refined = refine_query(query, passages, relevance, method=method)
    before, after = passages @ query, passages @ refined.vector
    gap = [c[relevance == 1].mean() - c[relevance == 0].mean() for c in (before, after)]
    assert refined.moved and refined.converged and refined.reason == ""
    assert gap[1] > gap[0]
    assert refined.loss_after < refined.loss_before
    assert np.linalg.norm(refined.vector) == pytest.approx(1.0, abs=1e-6)
    assert refined.vector.dtype == np.float32
    assert refined.angle == pytest.approx(math.acos(min(1.0, float(refined.vector @ query))), abs=1e-3)


def released_loop(query, passages, relevance):
    """The published optimiser, word for word, in double precision so that only the mathematics is compared."""
    import torch

    vector = torch.tensor(query, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor(passages, dtype=torch.float64)
    teacher = torch.softmax(torch.tensor(relevance, dtype=torch.float64), dim=0)
    optimizer = torch.optim.Adam([vector], lr=1e-4)
    for _ in range(100):
        optimizer.zero_grad()
        student = torch.softmax(torch.nn.functional.cosine_similarity(rows, vector[None, :]), dim=0)
        torch.sum(teacher * torch.log((teacher + 1e-8) / (student + 1e-8))).backward()
        optimizer.step()
    result = vector.detach().numpy()
    return result / np.linalg.norm(result)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("d", [16, 384])
def test_kl_with_steps_is_the_released_loop(seed, d):
    query, passages, relevance = problem(seed, d=d)
    refined = refine_query(query, passages, relevance, method="kl", steps=100, learning_rate=1e-4)
    np.testing.assert_allclose(refined.vector, released_loop(query, passages, relevance), atol=1e-6)
    # The peer of the benchmark runs in float32, where Adam lifts rounding noise of tiny gradients to whole steps.
    task = Task(query.astype(np.float32), passages.astype(np.float32), lambda rows: relevance[rows], 20, 1)
    np.testing.assert_allclose(kl_reference(task).vector, refined.vector, atol=2e-5)


def test_logistic_by_gradient_descent():
    """Newton in the dual ends where slow gradient descent in the primal ends."""
    query, passages, relevance = problem(3, k=8, d=6)
    prior = LogisticPrior(scale=5.0, precision=0.5, intercept_precision=0.5)
    fit = fit_logistic(query, passages, relevance, prior, tolerance=1e-10)
    weights, intercept = prior.scale * query, 0.0
    for _ in range(40_000):
        _, by_weights, by_intercept = logistic_loss(
            weights,
            intercept,
            query,
            passages,
            relevance,
            scale=5.0,
            precision=0.5,
            intercept_precision=0.5,
        )
        weights, intercept = weights - 0.05 * by_weights, intercept - 0.05 * by_intercept
    np.testing.assert_allclose(fit.weights, weights, atol=1e-6)
    assert fit.intercept == pytest.approx(intercept, abs=1e-6)


def test_rocchio_by_hand():
    refined = refine_query(
        [1.0, 0.0], [[0.6, 0.8], [0.6, -0.8]], [1.0, 0.0], method="rocchio", positive=0.5, negative=0.25
    )
    target = np.array([1 + 0.5 * 0.6 - 0.25 * 0.6, 0.5 * 0.8 + 0.25 * 0.8])
    np.testing.assert_allclose(refined.vector, target / np.linalg.norm(target), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, math.nan])
def test_a_teacher_that_says_nothing_moves_nothing(method, level):
    query, passages, _ = problem()
    relevance = np.full(20, level) + (np.linspace(0, 0.001, 20) if level == 0.5 else 0)
    refined = refine_query(query, passages, relevance, method=method)
    assert not refined.moved and refined.angle == 0.0
    assert refined.reason
    np.testing.assert_array_equal(refined.vector, query.astype(np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_order_of_passages_nan_rows_and_scale_do_not_matter(method):
    query, passages, relevance = problem()
    plain = refine_query(query, passages, relevance, method=method).vector
    order = np.random.default_rng(1).permutation(20)
    np.testing.assert_allclose(
        refine_query(query, passages[order], relevance[order], method=method).vector, plain, atol=1e-6
    )
    extra = np.vstack([passages, np.full((1, 48), np.nan), np.zeros((1, 48)), passages[:1]])
    told = np.concatenate([relevance, [1.0, 1.0, np.nan]])
    np.testing.assert_allclose(refine_query(query, extra, told, method=method).vector, plain, atol=1e-6)
    np.testing.assert_allclose(
        refine_query(7 * query, 1e30 * passages, relevance, method=method).vector, plain, atol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_input_is_never_written_to(method):
    query, passages, relevance = problem()
    for array in (query, passages, relevance):
        array.setflags(write=False)
    refine_query(query, passages, relevance, method=method)
    refine_query(query.tolist(), np.asfortranarray(passages.astype(np.float32)), relevance, method=method)


@given(
    st.integers(0, 10_000),
    st.sampled_from(METHODS),
    st.integers(1, 12),
    st.integers(1, 8),
    st.floats(1e-3, 1e3),
)
@settings(max_examples=150, deadline=None)
def test_any_judgements_give_a_bounded_unit_vector(seed, method, k, d, scale):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=d) * scale + 1e-3
    passages = rng.normal(size=(k, d)) * scale
    relevance = rng.choice([0.0, 0.3, 1.0, np.nan], size=k)
    refined = refine_query(query, passages, relevance, method=method)
    assert np.all(np.isfinite(refined.vector))
    assert np.linalg.norm(refined.vector) == pytest.approx(1.0, abs=1e-5)
    cosine = float(refined.vector @ (query / np.linalg.norm(query)))
    assert cosine >= math.cos(MAX_ANGLE) - 1e-5
    assert refined.loss_after <= refined.loss_before + 1e-9


def test_one_poisoned_judgement_moves_the_query_a_bounded_way():
    query, passages, _ = problem()
    relevance = np.zeros(20)
    relevance[-1] = 1.0
    for method in METHODS:
        assert refine_query(query, passages, relevance, method=method, max_angle=0.4).angle <= 0.4 + 1e-9


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([0.0, 0.0], [[1.0, 0.0]], [1.0]), ConfigurationError, "norm above 0"),
        (([np.nan, 1.0], [[1.0, 0.0]], [1.0]), ConfigurationError, "finite"),
        (([1.0, 0.0], [[1.0, 0.0, 0.0]], [1.0]), DimensionMismatchError, r"\(k, 2\)"),
        (([1.0, 0.0], [[1.0, 0.0]], [1.0, 0.0]), DimensionMismatchError, r"\(1,\)"),
        (([1.0, 0.0], [[1.0, 0.0]], [2.0]), ConfigurationError, r"\[0, 1\]"),
        (([[1.0, 0.0]], [[1.0, 0.0]], [1.0]), DimensionMismatchError, "query"),
    ],
)
def test_wrong_input_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        refine_query(*arguments)


@pytest.mark.parametrize(
    ("method", "setting", "words"),
    [
        ("newton", {}, "one of kl, logistic, rocchio"),
        ("kl", {"lowering": 0.5}, "unknown setting lowering"),
        ("logistic", {"lowering": 2.0}, "lowering: expected 0 to 1"),
        ("logistic", {"judge_error": 0.5}, "judge_error: expected 0 to 0.45"),
        ("logistic", {"scale": -1.0}, "scale"),
        ("kl", {"steps": 0}, "steps"),
        ("rocchio", {"max_angle": 4.0}, "max_angle"),
    ],
)
def test_wrong_settings_are_named(method, setting, words):
    with pytest.raises(ConfigurationError, match=words):
        refine_query([1.0, 0.0], [[1.0, 0.0]], [1.0], method=method, **setting)


def test_no_passages_is_no_move():
    refined = refine_query([1.0, 0.0], np.zeros((0, 2)), [])
    assert not refined.moved and "0 usable" in refined.reason


def test_the_solvers_load_no_torch():
    import subprocess

    code = (
        "import sys, llama_index_instruct as l; l.refine_query([1.,0.],[[.6,.8],[.6,-.8]],[1.,0.]);"
        "assert not {'torch', 'transformers', 'qdrant_client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_feedback_vector_is_qdrants_own_query():
    """The peer's one vector ranks as Qdrant's relevance-feedback query does, score for score."""
    from qdrant_client import QdrantClient, models

    query, passages, _ = problem(5, k=6, d=16)
    graded = np.linspace(0.0, 1.0, 6)
    documents = np.random.default_rng(0).normal(size=(40, 16))
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config=models.VectorParams(size=16, distance=models.Distance.COSINE))
    client.upload_collection("c", vectors=documents, ids=range(40))
    hits = client.query_points(
        "c",
        query=models.RelevanceFeedbackQuery(
            relevance_feedback=models.RelevanceFeedbackInput(
                target=query.tolist(),
                feedback=[
                    models.FeedbackItem(example=row.tolist(), score=score)
                    for row, score in zip(passages, graded.tolist(), strict=True)
                ],
                strategy=models.NaiveFeedbackStrategy(naive=models.NaiveFeedbackStrategyParams(a=0.12, b=0.43, c=0.03)),
            )
        ),
        limit=40,
    ).points
    client.close()
    vector = feedback_vector(query, passages, graded, (0.12, 0.43, 0.03))
    expected = documents @ vector
    assert [hit.id for hit in hits] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-5)


def test_a_given_prior_keeps_what_is_not_set_beside_it():
    settings = make_settings("logistic", {"prior": LogisticPrior(precision=9.0), "scale": 2.0})
    assert (settings.prior.precision, settings.prior.scale) == (9.0, 2.0)
    with pytest.raises(ConfigurationError, match="intercept_precision"):
        refine_query([1.0, 0.0], [[1.0, 0.0]], [1.0], intercept_precision=1e-300)
