import numpy as np
import pytest
from test_selection import unit_rows

from llama_index_instruct.refinement.changes import STIFFNESS, ScoreChanges


@pytest.mark.parametrize("d", [12, 200])
def test_the_change_is_the_literal_minimum(d):
    """Gradient descent on the sum of squares of the docstring; fewer and more rows than dimensions."""
    rows = unit_rows(1, 40, d) + 1.5 * unit_rows(0, 1, d)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    wanted, change = np.random.default_rng(2).normal(size=40), np.zeros(d)
    for _ in range(20_000):
        change -= 0.01 * (rows.T @ (rows @ change - wanted) + STIFFNESS * change)
    np.testing.assert_allclose(ScoreChanges(rows).query_change(wanted), change, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_some_scores_change_and_the_others_hardly(seed):
    rows, wanted = unit_rows(seed, 100, 384), np.zeros(100)
    wanted[:5] = -0.3
    found = rows @ ScoreChanges(rows).query_change(wanted)
    np.testing.assert_allclose(found[:5], -0.3, atol=0.02)
    assert np.abs(found[5:]).max() < 0.02


def test_no_wish_no_change():
    assert not ScoreChanges(unit_rows(0, 7, 3)).query_change(np.zeros(7)).any()
