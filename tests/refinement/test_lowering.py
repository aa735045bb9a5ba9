import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_selection import unit_rows
from test_solvers import problem

from llama_index_instruct import DimensionMismatchError, refine_query
from llama_index_instruct.refinement.lowering import HEAD, lowered_scores
from llama_index_instruct.refinement.settings import MAX_ANGLE


def scene(seed=0, d=64):
    query = unit_rows(seed, 1, d)[0]
    rows = unit_rows(seed + 1, 40, d) + 1.5 * query
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows[np.argsort(-(rows @ query))]
    return query, rows[:8], np.array([1.0, 0, 0, 1, 0, 0, 0.3, 0]), rows[8:]


def test_how_far_down_by_a_literal_loop():
    query, passages, relevance, others = scene()
    wrong = 1 - 0.9 * relevance
    threshold = sorted(others @ query, reverse=True)[int(HEAD * len(others))]
    expected = []
    for passage, value, doubt in zip(passages, relevance, wrong, strict=True):
        expected.append(0.7 * doubt * min(0.0, threshold - passage @ query) if value < 0.5 else 0.0)
    down = lowered_scores(passages @ query, relevance, wrong, others @ query, 0.7)
    np.testing.assert_allclose(down, expected, atol=1e-12)
    assert down.min() < 0.0 == down.max()


def test_nothing_to_lower():
    query, passages, relevance, others = scene()
    scores, rest = passages @ query, others @ query
    for told, unjudged, part in ((np.ones(8), rest, 1.0), (relevance, rest[:0], 1.0), (relevance, rest, 0.0)):
        assert not lowered_scores(scores, told, 1 - told, unjudged, part).any()
    assert not lowered_scores(-scores, np.zeros(8), np.ones(8), rest, 1.0).any()


def rejected_in_the_head(vector, passages, relevance, others):
    rows = np.vstack([passages, others / np.linalg.norm(others, axis=1, keepdims=True)])
    return int((np.argsort(-(rows @ vector))[:8, None] == np.flatnonzero(relevance == 0.0)).sum())


def test_given_what_nobody_judged_fewer_rejected_stay_in_the_head():
    left = {"alone": 0, "among": 0}
    for seed in range(30):
        query, passages, relevance = problem(seed)
        others = query + 1.3 * np.random.default_rng(seed).normal(size=(60, 48)) / 48**0.5
        alone = refine_query(query, passages, relevance)
        among = refine_query(query, passages, relevance, others=others)
        for name, refined in (("alone", alone), ("among", among)):
            left[name] += rejected_in_the_head(refined.vector, passages, relevance, others)
        assert among.angle <= MAX_ANGLE + 1e-9
        same = refine_query(query, passages, relevance, others=others, lowering=0.0)
        np.testing.assert_allclose(same.vector, alone.vector, atol=1e-7)
    assert left["among"] < left["alone"]


@pytest.mark.parametrize("seed", range(8))
def test_a_lone_yes_is_doubted_but_never_lowered(seed):
    rng = np.random.default_rng(seed)
    query = unit_rows(seed + 50, 1, 384)[0]
    rows = 0.7 * rng.normal(size=(100, 384)) / 384**0.5 + query
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows[np.argsort(-(rows @ query))]
    relevance = np.zeros(20)
    relevance[10] = 1.0
    turned, lowered = (
        refine_query(query, rows[:20], relevance, others=rows[20:], lowering=part).vector for part in (0.0, 0.7)
    )
    assert rows[10] @ (turned - lowered) < 0.01
    assert (rows @ lowered > rows[10] @ lowered).sum() < 3


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 40), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_whatever_is_given_the_query_stays_within_its_angle(seed, k, d, m):
    rng = np.random.default_rng(seed)
    query, passages, others = rng.normal(size=d), rng.normal(size=(k, d)), rng.normal(size=(m, d))
    relevance = rng.choice([0.0, 0.3, 0.5, 0.9, 1.0, np.nan], size=k)
    refined = refine_query(query, passages, relevance, others=others)
    assert np.isfinite(refined.vector).all() and 0.0 <= refined.angle <= MAX_ANGLE + 1e-9
    order, shuffled = rng.permutation(k), rng.permutation(m)
    again = refine_query(query, passages[order], relevance[order], others=others[shuffled])
    np.testing.assert_allclose(again.vector, refined.vector, atol=1e-5)


def test_rows_that_say_nothing_are_left_out_and_shapes_are_checked():
    query, passages, relevance = problem()
    others = unit_rows(3, 30, 48) + query
    plain = refine_query(query, passages, relevance, others=others).vector
    extra = np.vstack([1e30 * others, np.zeros((1, 48)), np.full((1, 48), np.nan)])
    np.testing.assert_allclose(refine_query(query, passages, relevance, others=extra).vector, plain, atol=1e-6)
    for method in ("kl", "rocchio"):
        np.testing.assert_array_equal(
            refine_query(query, passages, relevance, method=method, others=others).vector,
            refine_query(query, passages, relevance, method=method).vector,
        )
    for told in (relevance, np.ones(20)):
        for wrong in (others[:, :7], others[0]):
            with pytest.raises(DimensionMismatchError, match="others: expected shape"):
                refine_query(query, passages, told, others=wrong)
        assert refine_query(query, passages, told, others=[]).moved == (told is relevance)
    extra = np.vstack([1e160 * others, 1e-170 * others])
    np.testing.assert_allclose(
        refine_query(query, 1e160 * passages, relevance, others=extra).vector,
        refine_query(query, passages, relevance, others=np.vstack([others, others])).vector,
        atol=1e-6,
    )
