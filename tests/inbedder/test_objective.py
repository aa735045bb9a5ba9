import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from llama_index_instruct.inbedder.objective import SAME_ANSWER, answer_contrast, state_contrast

quick = settings(max_examples=40, deadline=None)
# Which of a few answers each row has.
ROWS = st.lists(st.integers(0, 3), min_size=1, max_size=8)
SCALES = st.sampled_from([0.5, 5.0, 20.0])


def states_and_answers(rows, seed=0, *, size=6):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(rows), size, generator=generator, dtype=torch.float64) * 3.0
    # Orthogonal answers, of any length, and rounded a little as in half precision.
    answers = (
        torch.eye(size, dtype=torch.float64)[rows] * torch.linspace(0.5, 2.0, len(rows), dtype=torch.float64)[:, None]
    )
    answers = answers + 1e-3 * torch.randn(answers.shape, generator=generator, dtype=torch.float64)
    return states.requires_grad_(), answers


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def literal_answer_contrast(states, answers, scale):
    states, answers = states.tolist(), answers.tolist()
    total = 0.0
    for i, state in enumerate(states):
        share = 0.0
        for j, answer in enumerate(answers):
            if j == i or cosine(answers[i], answer) <= SAME_ANSWER:
                share += math.exp(scale * cosine(state, answer))
        total -= math.log(math.exp(scale * cosine(state, answers[i])) / share)
    return total / len(states)


def literal_state_contrast(states, answers, scale):
    states, answers = states.tolist(), answers.tolist()
    terms = []
    for i in range(len(states)):
        others = [j for j in range(len(states)) if j != i]
        partners = [j for j in others if cosine(answers[i], answers[j]) > SAME_ANSWER]
        if partners:
            share = sum(math.exp(scale * cosine(states[i], states[j])) for j in others)
            logs = [math.log(math.exp(scale * cosine(states[i], states[j])) / share) for j in partners]
            terms.append(-sum(logs) / len(logs))
    return sum(terms) / len(terms) if terms else 0.0


LITERAL = {answer_contrast: literal_answer_contrast, state_contrast: literal_state_contrast}
both = pytest.mark.parametrize("loss", list(LITERAL), ids=lambda loss: loss.__name__)


@both
@quick
@given(rows=ROWS, seed=st.integers(0, 999), scale=SCALES)
def test_as_written_out(loss, rows, seed, scale):
    states, answers = states_and_answers(rows, seed)
    found = loss(states, answers, scale)
    assert found.item() == pytest.approx(LITERAL[loss](states, answers, scale), rel=1e-9, abs=1e-12)
    found.backward()
    assert states.grad.shape == states.shape and states.grad.isfinite().all()


@both
@pytest.mark.parametrize("rows", [[0, 0, 1, 2], [0, 1, 0, 1]])
def test_gradients_are_right(loss, rows):
    states, answers = states_and_answers(rows)
    assert torch.autograd.gradcheck(lambda s: loss(s, answers, 5.0), (states,))


@both
def test_neither_length_nor_order_matters(loss):
    states, answers = states_and_answers([0, 1, 0, 2, 2, 3])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    plain = loss(states, answers, 20.0)
    torch.testing.assert_close(loss(states[order], answers[order], 20.0), plain)
    torch.testing.assert_close(
        loss(states * torch.tensor([[2.0], [0.1], [5.0], [1.0], [9.0], [3.0]]), 7 * answers, 20.0), plain
    )


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_are_finite_in_every_precision(loss, dtype):
    states, answers = states_and_answers([0, 0, 1, 1, 2, 3])
    states = states.detach().to(torch.float32).requires_grad_()
    found = loss(states, answers.to(dtype).float(), 20.0)
    found.backward()
    assert found.isfinite() and states.grad.isfinite().all() and states.grad.abs().sum() > 0


@both
def test_states_of_zero_break_nothing(loss):
    states, answers = states_and_answers([0, 0, 1])
    states = (states.detach() * torch.tensor([[0.0], [1.0], [1.0]])).requires_grad_()
    loss(states, answers, 20.0).backward()
    assert states.grad.isfinite().all()


def test_a_repeated_answer_is_no_negative():
    states, answers = states_and_answers([0, 0, 1])
    logits = 20.0 * functional.normalize(states) @ functional.normalize(answers).T
    terms = [
        functional.cross_entropy(logits[0, [0, 2]], torch.tensor(0)),
        functional.cross_entropy(logits[1, [1, 2]], torch.tensor(0)),
        functional.cross_entropy(logits[2], torch.tensor(2)),
    ]
    torch.testing.assert_close(answer_contrast(states, answers, 20.0), sum(terms) / 3)


def test_a_batch_of_one_answer_teaches_nothing_about_answers():
    states, answers = states_and_answers([2, 2, 2])
    found = answer_contrast(states, answers, 20.0)
    found.backward()
    assert found.item() == 0.0 and not states.grad.any()


@pytest.mark.parametrize("rows", [[0], [0, 1], [0, 1, 2, 3]])
def test_without_partners_states_are_left_alone(rows):
    states, answers = states_and_answers(rows)
    found = state_contrast(states, answers, 20.0)
    found.backward()
    assert found.item() == 0.0 and torch.equal(states.grad, torch.zeros_like(states))


def test_a_row_without_partner_takes_no_part_but_repels():
    states, answers = states_and_answers([0, 0, 1])
    with_lone = state_contrast(states, answers, 20.0)
    with_lone.backward()
    assert states.grad[2].abs().sum() > 0
    alone = state_contrast(states[:2], answers[:2], 20.0)
    assert with_lone.item() > alone.item() == pytest.approx(0.0, abs=1e-12)


@both
def test_states_at_their_answers_lose_least(loss):
    _, answers = states_and_answers([0, 0, 1, 1, 2, 2])
    astray = answers[[2, 1, 0, 3, 4, 5]]
    assert loss(answers, answers, 20.0) < loss(astray, answers, 20.0)


def test_descent_brings_states_of_one_answer_together():
    states, answers = states_and_answers([0, 0, 1, 1, 2, 2])
    states = states.detach().requires_grad_()
    optimizer = torch.optim.Adam([states], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        state_contrast(states, answers, 20.0).backward()
        optimizer.step()
    unit = functional.normalize(states.detach())
    same = torch.tensor([0, 0, 1, 1, 2, 2])
    near = (unit @ unit.T)[same[:, None] == same]
    far = (unit @ unit.T)[same[:, None] != same]
    assert near.min() > far.max() + 0.2
