import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct.arithmetic import sigmoid, softmax


def test_logits_become_probabilities():
    logits = np.array([-1e9, -np.log(3), 0.0, np.log(3), 1e9, np.nan])
    np.testing.assert_allclose(sigmoid(logits), [0.0, 0.25, 0.5, 0.75, 1.0, np.nan])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_softmax_and_sigmoid_stay_probabilities(values):
    logits = np.array(values)
    assert softmax(logits).sum() == pytest.approx(1.0)
    assert np.all((sigmoid(logits) >= 0) & (sigmoid(logits) <= 1))
