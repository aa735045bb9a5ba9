import math

import numpy as np
import pytest

from llama_index_instruct.arithmetic import softmax
from llama_index_instruct.refinement.objectives import LOG_FLOOR, kl_loss, logistic_loss


def literal_kl(query, passages, teacher):
    norm = math.sqrt(sum(v * v for v in query))
    cosines = [sum(a * b for a, b in zip(row, query, strict=True)) / norm for row in passages]
    total = sum(math.exp(c) for c in cosines)
    student = [math.exp(c) / total for c in cosines]
    return sum(p * math.log((p + LOG_FLOOR) / (s + LOG_FLOOR)) for p, s in zip(teacher, student, strict=True))


def literal_logistic(weights, intercept, query, passages, relevance, scale, precision, intercept_precision):
    cosines = [sum(a * b for a, b in zip(row, query, strict=True)) for row in passages]
    centre = -scale * sum(cosines) / len(cosines)
    loss = 0.5 * intercept_precision * (intercept - centre) ** 2
    loss += 0.5 * precision * sum((w - scale * q) ** 2 for w, q in zip(weights, query, strict=True))
    for row, y in zip(passages, relevance, strict=True):
        p = 1 / (1 + math.exp(-(sum(a * b for a, b in zip(row, weights, strict=True)) + intercept)))
        loss -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return loss


def numeric_gradient(function, at, step=1e-6):
    gradient = np.zeros_like(at)
    for i in range(len(at)):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


def sample(seed, k=5, d=4):
    rng = np.random.default_rng(seed)
    passages = rng.normal(size=(k, d))
    return (
        rng.normal(size=d),
        passages / np.linalg.norm(passages, axis=1, keepdims=True),
        rng.random(k),
    )


@pytest.mark.parametrize("seed", range(5))
def test_kl_is_the_literal_loop_and_its_gradient_is_numeric(seed):
    query, passages, relevance = sample(seed)
    teacher = softmax(relevance)
    loss, gradient = kl_loss(query, passages, teacher)
    assert loss == pytest.approx(literal_kl(query, passages, teacher), abs=1e-12)
    numeric = numeric_gradient(lambda q: kl_loss(q, passages, teacher)[0], query)
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_logistic_is_the_literal_loop_and_its_gradient_is_numeric(seed):
    query, passages, relevance = sample(seed)
    query /= np.linalg.norm(query)
    weights, intercept = np.random.default_rng(seed).normal(size=4), 0.3
    prior = {"scale": 8.0, "precision": 0.05, "intercept_precision": 0.01}
    loss, by_weights, by_intercept = logistic_loss(weights, intercept, query, passages, relevance, **prior)
    expected = literal_logistic(weights, intercept, query, passages, relevance, *prior.values())
    assert loss == pytest.approx(expected, abs=1e-10)

    def of(point):
        return logistic_loss(point[:-1], point[-1], query, passages, relevance, **prior)[0]

    numeric = numeric_gradient(of, np.append(weights, intercept))
    np.testing.assert_allclose(np.append(by_weights, by_intercept), numeric, atol=1e-6)


def test_kl_by_hand():
    # Two passages along and across the query: cosines 1 and 0, teacher even.
    loss, gradient = kl_loss(np.array([1.0, 0.0]), np.eye(2), np.array([0.5, 0.5]))
    student = math.e / (1 + math.e)
    expected = 0.5 * math.log(0.5 / student) + 0.5 * math.log(0.5 / (1 - student))
    assert loss == pytest.approx(expected, abs=1e-6)
    # Across the query the second passage is under-weighted, so the query must go its way.
    assert gradient[0] == pytest.approx(0.0, abs=1e-12)
    assert gradient[1] == pytest.approx((1 - student) - 0.5, abs=1e-6)
