import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct import ConfigurationError, SelectionSettings, refine_query
from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.refinement.logistic import fit_logistic
from llama_index_instruct.refinement.rounds import RefinementRounds
from llama_index_instruct.refinement.selection import ALL_FAILED, select_candidates, split_budget


def unit_rows(seed, n, d):
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(st.integers(1, 60), st.integers(1, 12))
def test_the_budget_is_spent_to_the_last_call(judged, rounds):
    parts = split_budget(judged, rounds)
    assert sum(parts) == judged and len(parts) == rounds and max(parts) - min(parts) <= 1


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_never_twice_never_judged(seed, n, count):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, n, 6)
    judged = rng.choice(n, size=rng.integers(1, n), replace=False)
    relevance = rng.choice([0.0, 1.0, np.nan], size=len(judged))
    for chosen in (SelectionSettings(), SelectionSettings(first_exploration=1.0)):
        for told, said in ((judged, relevance), (judged, 0.0 * relevance), (judged[:0], relevance[:0])):
            picks = select_candidates(rows[0], rows, told, said, count, chosen)
            assert len(set(picks.tolist())) == len(picks) == min(count, n - len(told))
            assert not set(picks.tolist()) & set(told.tolist())


def test_picks_are_the_slow_literal_ones():
    """Greedy upper confidence bounds, each time from a freshly inverted posterior in the primal."""
    rows, query = unit_rows(1, 25, 5), unit_rows(2, 1, 5)[0]
    judged, relevance = np.arange(6), np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    chosen = SelectionSettings(exploration=1.3, adaptation=0.0, window=25)
    prior = chosen.prior
    fit = fit_logistic(query, rows[judged], relevance, prior)
    precision = prior.precision * np.eye(5)
    for row, curvature in zip(rows[judged], fit.curvature, strict=True):
        precision += curvature * np.outer(row, row)
    expected = []
    for _ in range(5):
        covariance = np.linalg.inv(precision)
        bounds = {
            i: rows[i] @ fit.weights + fit.intercept + 1.3 * np.sqrt(rows[i] @ covariance @ rows[i])
            for i in range(6, 25)
            if i not in expected
        }
        best = max(bounds, key=bounds.get)
        expected.append(best)
        logit = rows[best] @ fit.weights + fit.intercept
        curvature = max(sigmoid(np.array([logit]))[0] * sigmoid(np.array([-logit]))[0], 1e-2)
        precision += curvature * np.outer(rows[best], rows[best])
    assert select_candidates(query, rows, judged, relevance, 5, chosen).tolist() == expected


def test_near_duplicates_are_not_paid_for_twice():
    query = np.array([1.0, 0.0, 0.0])
    copies = np.array([[0.8, 0.6, 1e-4 * i] for i in range(5)])
    other = np.array([[0.79, 0.0, 0.61]])
    judged = np.array([[0.9, 0.0, -0.43], [0.9, -0.43, 0.0]])
    rows = np.vstack([judged, copies, other])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    told = np.array([0, 1]), np.array([1.0, 0.0]), 2
    greedy = select_candidates(query, rows, *told, SelectionSettings(exploration=0.0))
    curious = select_candidates(query, rows, *told, SelectionSettings(exploration=6.0))
    assert set(greedy.tolist()) <= {2, 3, 4, 5, 6}
    assert 7 in curious.tolist()


def test_after_failures_each_pick_is_the_likeliest_if_all_before_it_fail():
    """One pick at a time, each from a regression on everything that failed or is taken to fail."""
    rows, query = unit_rows(1, 25, 5), unit_rows(2, 1, 5)[0]
    failed, said = [0, 1, 2], [0.0, 0.2, 0.0]
    expected = []
    for _ in range(4):
        fit = fit_logistic(query, rows[failed], np.array(said), ALL_FAILED)
        best = max((i for i in range(25) if i not in failed), key=lambda i: rows[i] @ fit.weights)
        expected.append(best)
        failed, said = [*failed, best], [*said, 0.0]
    told = np.array([0, 1, 2, 3]), np.array([0.0, 0.2, 0.0, np.nan])
    picks = select_candidates(query, np.insert(rows, 3, rows[0], axis=0), *told, 4, SelectionSettings())
    assert [pick - (pick > 3) for pick in picks] == expected


def test_after_failures_it_looks_elsewhere():
    query = np.array([1.0, 0.0, 0.0])
    wrong = np.array([[0.8, 0.6, 1e-3 * i] for i in range(12)])
    elsewhere = np.array([[0.75, 1e-3 * i, 0.66] for i in range(3)])
    rows = np.vstack([wrong, elsewhere])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    picks = select_candidates(query, rows, np.arange(6), np.zeros(6), 2, SelectionSettings())
    assert picks[0] >= 12


def test_a_first_round_that_looks_around():
    """Greedy upper confidence bounds under the prior alone."""
    rows, query = unit_rows(1, 25, 5), unit_rows(2, 1, 5)[0]
    rows = rows[np.argsort(-(rows @ query))]
    chosen = SelectionSettings(first_exploration=1.3, window=25)
    logits = chosen.prior.scale * (rows @ query)
    logits -= logits[:5].mean()
    precision, expected = chosen.prior.precision * np.eye(5), []
    for _ in range(5):
        covariance = np.linalg.inv(precision)
        bounds = logits + 1.3 * np.sqrt(np.einsum("nd,de,ne->n", rows, covariance, rows))
        best = int(np.argmax(np.where(np.isin(np.arange(25), expected), -np.inf, bounds)))
        expected.append(best)
        curvature = max(sigmoid(logits[[best]])[0] * sigmoid(-logits[[best]])[0], 1e-2)
        precision += curvature * np.outer(rows[best], rows[best])
    nothing = np.zeros(0, dtype=np.intp), np.zeros(0)
    assert select_candidates(query, rows, *nothing, 5, chosen).tolist() == expected
    assert select_candidates(query, rows, *nothing, 5, SelectionSettings()).tolist() == [0, 1, 2, 3, 4]


def test_without_judgements_the_top_comes_next():
    rows = unit_rows(0, 9, 4)
    picks = select_candidates(rows[0], rows, np.array([0, 1]), np.full(2, np.nan), 3, SelectionSettings())
    assert picks.tolist() == [2, 3, 4]


def test_rounds_judge_each_candidate_once_and_end_when_none_is_left():
    rows = unit_rows(0, 7, 4)
    rounds = RefinementRounds(rows[0], rows, judged=20, rounds=4)
    seen = []
    while len(picks := rounds.next_rows()):
        seen += picks.tolist()
        rounds.record(picks, (picks % 2).astype(float))
    assert sorted(seen) == list(range(7))
    assert rounds.refine().moved


def test_what_was_not_answered_is_held_like_what_nobody_judged():
    rows = unit_rows(3, 150, 64) + 0.8 * unit_rows(4, 1, 64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query = unit_rows(4, 1, 64)[0]
    rows = rows[np.argsort(-(rows @ query))]
    rounds = RefinementRounds(query, rows, judged=12, rounds=1)
    judged = rounds.next_rows()
    said = np.array([0.0, 0.0, np.nan, 0.0, 0.0, 1.0] * 2)
    rounds.record(judged, said)
    known = judged[~np.isnan(said)]
    expected = refine_query(query, rows[known], said[~np.isnan(said)], others=np.delete(rows, known, axis=0))
    np.testing.assert_allclose(rounds.refine().vector, expected.vector, atol=1e-6)
    without = refine_query(query, rows[judged], said, others=np.delete(rows, judged, axis=0))
    assert np.abs(rounds.refine().vector - without.vector).max() > 1e-4


@pytest.mark.parametrize(
    "setting", [{"exploration": -1.0}, {"first_exploration": -1.0}, {"adaptation": -0.1}, {"window": 0}]
)
def test_wrong_settings_are_named(setting):
    with pytest.raises(ConfigurationError, match="selection"):
        SelectionSettings(**setting)
