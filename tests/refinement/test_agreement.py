import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_solvers import problem

from llama_index_instruct import refine_query
from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.refinement.agreement import agreement, believed, left_out_logits
from llama_index_instruct.refinement.logistic import LogisticPrior, fit_logistic
from llama_index_instruct.refinement.settings import LogisticSettings
from llama_index_instruct.refinement.solvers import angle_at

PRIOR = LogisticPrior(scale=3.0, precision=0.5, intercept_precision=0.2)


def test_left_out_logits_are_the_literal_ones():
    """One factor taken out of the Gaussian posterior in the primal, d + 1 numbers, by explicit inversion."""
    query, passages, relevance = problem(1, k=7, d=4)
    fit = fit_logistic(query, passages, relevance, PRIOR, tolerance=1e-10)
    rows = np.hstack([passages, np.ones((7, 1))])
    solution = np.append(fit.weights, fit.intercept)
    probability = sigmoid(rows @ solution)
    expected = []
    for left_out in range(7):
        precision = np.diag([PRIOR.precision] * 4 + [PRIOR.intercept_precision])
        # Natural mean of the whole Gaussian, less the factor of the judgement left out.
        whole = precision + rows.T @ (fit.curvature[:, None] * rows)
        natural = whole @ solution
        row, h = rows[left_out], fit.curvature[left_out]
        natural = natural - row * (h * (row @ solution) + relevance[left_out] - probability[left_out])
        expected.append(row @ np.linalg.solve(whole - h * np.outer(row, row), natural))
    np.testing.assert_allclose(left_out_logits(passages, relevance, fit, PRIOR), expected, atol=1e-6)


def test_left_out_logits_are_near_those_of_new_fits():
    query, passages, relevance = problem(2, k=12, d=8)
    fit = fit_logistic(query, passages, relevance, PRIOR)
    fast = left_out_logits(passages, relevance, fit, PRIOR)
    slow = []
    for i in range(12):
        keep = np.arange(12) != i
        again = fit_logistic(query, passages[keep], relevance[keep], PRIOR)
        slow.append(passages[i] @ again.weights + again.intercept)
    assert np.corrcoef(fast, slow)[0, 1] > 0.98


def test_agreement_by_hand():
    # Two clusters, one relevant: every judgement can be foretold from its neighbours. Across the clusters: none can.
    prior = LogisticPrior(scale=3.0, precision=0.01, intercept_precision=0.2)
    passages = np.array([[0.8, 0.6, 0.0], [0.8, 0.59, 0.1], [0.8, 0.0, 0.6], [0.8, 0.1, 0.59]])
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    for relevance, expected in ((np.array([1.0, 1.0, 0.0, 0.0]), 1.0), (np.array([1.0, 0.0, 1.0, 0.0]), 0.0)):
        fit = fit_logistic(np.array([1.0, 0.0, 0.0]), passages, relevance, prior)
        assert agreement(relevance, left_out_logits(passages, relevance, fit, prior)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_soft_answers_are_a_concordance(seed):
    query, passages, _ = problem(seed)
    relevance = np.random.default_rng(seed).random(20)
    fit = fit_logistic(query, passages, relevance, PRIOR)
    foretold = left_out_logits(passages, relevance, fit, PRIOR)
    right = total = 0.0
    for i in range(20):
        for j in range(20):
            if relevance[i] > relevance[j]:
                total += relevance[i] - relevance[j]
                right += (relevance[i] - relevance[j]) * (foretold[i] > foretold[j])
    assert agreement(relevance, foretold) == pytest.approx(right / total)


def test_a_judge_that_contradicts_itself_moves_the_query_less():
    query = np.array([1.0, 0.0, 0.0])
    rows = [[0.8, 0.6 - 0.01 * i, 0.01 * i] for i in range(8)] + [[0.8, 0.01 * i, 0.6 - 0.01 * i] for i in range(8)]
    consistent = np.repeat([1.0, 0.0], 8)
    torn = np.tile([1.0, 0.0], 8)
    assert refine_query(query, rows, torn).angle < refine_query(query, rows, consistent).angle
    assert refine_query(query, rows, torn).angle <= LogisticSettings().doubted_angle + 1e-9


@pytest.mark.parametrize(("agreed", "angle"), [(0.2, 0.4), (0.6, 0.4), (0.65, 0.5), (0.7, 0.6), (0.8, 0.8), (1.0, 0.8)])
def test_the_angle_grows_with_the_agreement(agreed, angle):
    chosen = LogisticSettings(max_angle=0.8, doubted_angle=0.4)
    assert angle_at(agreed, chosen) == pytest.approx(angle)
    assert angle_at(agreed, LogisticSettings(max_angle=0.3, doubted_angle=0.4)) == pytest.approx(0.3)


def test_belief_by_hand():
    # Foretold as yes in 26 of 100 cases with one wrong answer in 20: relevant in (0.26 - 0.05) / 0.9 of them.
    foretold = np.log(np.array([0.26, 0.26]) / 0.74)
    before = 0.21 / 0.9
    yes = before * 0.95 / (before * 0.95 + (1 - before) * 0.05)
    no = before * 0.05 / (before * 0.05 + (1 - before) * 0.95)
    np.testing.assert_allclose(believed(np.array([1.0, 0.0]), foretold, 0.05), [yes, no])
    np.testing.assert_allclose(believed(np.array([0.25, 0.25]), foretold, 0.05), 0.25 * yes + 0.75 * no)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-700, 700)), min_size=1, max_size=8),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
)
def test_belief_is_a_probability_that_doubt_draws_to_what_is_foretold(answers, one, other):
    relevance, foretold = np.array(answers).T
    less, more = (believed(relevance, foretold, error) for error in sorted((one, other)))
    assert ((less >= 0) & (less <= 1) & (more >= 0) & (more <= 1)).all()
    np.testing.assert_array_equal(believed(relevance, foretold, 0.0), relevance)
    contradicted = (relevance == 1.0) & (foretold < 0.0)
    assert (more[contradicted] <= less[contradicted] + 1e-9).all()


def test_an_answer_the_others_contradict_counts_for_less():
    rows = [[0.8, 0.6 - 0.01 * i, 0.02 * i] for i in range(8)] + [[0.8, 0.02 * i, 0.6 - 0.01 * i] for i in range(8)]
    told = np.repeat([1.0, 0.0], 8)
    told[12] = 1.0
    careful, credulous = (refine_query([1.0, 0.0, 0.0], rows, told, judge_error=error).vector for error in (0.1, 0.0))
    assert careful[2] < credulous[2]


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.28, 0.8])
def test_two_answers_that_differ_are_not_turned_round(cosine):
    side = np.sqrt((1 - cosine) / (1 + cosine))
    passages = np.array([[1.0, side], [1.0, -side]]) / np.sqrt(1 + side**2)
    refined = refine_query([1.0, 0.0], passages, [1.0, 0.0])
    assert refined.vector[1] > 0.1
