import numpy as np
import pytest
from test_selection import unit_rows
from test_solvers import problem

from llama_index_instruct import DimensionMismatchError, refine_query
from llama_index_instruct.refinement.lowering import HEAD, STIFFNESS, lower_rejected
from llama_index_instruct.refinement.settings import MAX_ANGLE


def scene(seed=0, d=64):
    query = unit_rows(seed, 1, d)[0]
    rows = unit_rows(seed + 1, 40, d) + 1.5 * query
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows[np.argsort(-(rows @ query))]
    return query, rows[:8], np.array([1.0, 0, 0, 1, 0, 0, 0.3, 0]), rows[8:]


def test_the_change_is_the_literal_minimum():
    """Gradient descent on the sum of squares that the docstring puts into words."""
    query, passages, relevance, others = scene(d=12)
    threshold = sorted(others @ query, reverse=True)[int(HEAD * len(others))]
    rows, wanted = list(others), [0.0] * len(others)
    for passage, value in zip(passages, relevance, strict=True):
        if value >= 0.5:
            rows.append(passage)
            wanted.append(0.0)
        elif passage @ query > threshold:
            rows.append(passage)
            wanted.append(0.7 * (1 - value) * (threshold - passage @ query))
    rows, wanted, change = np.array(rows), np.array(wanted), np.zeros(12)
    for _ in range(20_000):
        change -= 0.01 * (rows.T @ (rows @ change - wanted) + STIFFNESS * change)
    np.testing.assert_allclose(lower_rejected(query, passages, relevance, others, 0.7), query + change, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_rejected_passages_fall_and_hardly_anything_else_moves(seed):
    query, passages, relevance, others = scene(seed, d=256)
    changed = lower_rejected(query, passages, relevance, others, 1.0) - query
    rejected = passages[relevance == 0.0] @ changed
    assert (rejected < 0).all()
    rest = np.concatenate([others @ changed, passages[relevance == 1.0] @ changed])
    assert np.abs(rest).mean() < 0.2 * np.abs(rejected).mean()


def test_nothing_to_lower():
    query, passages, relevance, others = scene()
    for told, rest, part in ((np.ones(8), others, 1.0), (relevance, others[:0], 1.0), (relevance, others, 0.0)):
        np.testing.assert_array_equal(lower_rejected(query, passages, told, rest, part), query)
    below = passages[::-1] * np.array([[-1.0]])
    np.testing.assert_array_equal(lower_rejected(query, below, np.zeros(8), others, 1.0), query)


@pytest.mark.parametrize("seed", range(4))
def test_given_what_nobody_judged_fewer_rejected_stay_in_the_head(seed):
    query, passages, relevance = problem(seed)
    others = query + 1.5 * np.random.default_rng(seed).normal(size=(60, 48)) / 48**0.5
    alone = refine_query(query, passages, relevance)
    among = refine_query(query, passages, relevance, others=others)
    rows = np.vstack([passages, others / np.linalg.norm(others, axis=1, keepdims=True)])

    def rejected_in_the_head(vector):
        return int((np.argsort(-(rows @ vector))[:12, None] == np.flatnonzero(relevance == 0.0)).sum())

    assert rejected_in_the_head(among.vector) <= rejected_in_the_head(alone.vector)
    assert passages[relevance == 0.0].mean(axis=0) @ (among.vector - alone.vector) < 0
    assert among.angle <= MAX_ANGLE + 1e-9
    same = refine_query(query, passages, relevance, others=others, lowering=0.0)
    np.testing.assert_allclose(same.vector, alone.vector, atol=1e-7)


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
    for wrong in (others[:, :7], others[0]):
        with pytest.raises(DimensionMismatchError, match="others: expected shape"):
            refine_query(query, passages, relevance, others=wrong)
