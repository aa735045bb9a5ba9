"""The two terms of the loss, against sentence-transformers' own losses and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MultipleNegativesRankingLoss
from torch.nn import functional

from llama_index_instruct.incontext.objective import contrast, distillation, group_contrast, group_scores

quick = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 10_000)
ROWS = st.integers(1, 6)
# Unit vectors by their cosine with the query (1, 0).
QUERY = [1.0, 0.0]


def at(cosine):
    return [cosine, math.sqrt(1 - cosine**2)]


def drawn(rows, group, seed, size=5):
    """Unit queries and documents, and a teacher's scores."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents, teacher = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, size), (rows, group, size), (rows, group))
    )
    queries, documents = (functional.normalize(vectors, dim=-1) for vectors in (queries, documents))
    return queries.requires_grad_(), documents.requires_grad_(), teacher


def columns(queries, documents):
    return [queries, *documents.unbind(dim=1)]


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs, retain_graph=True)


def mean_loss(*rows):
    """Cross-entropy of rows of scores, the positive first in each."""
    return sum(math.log(sum(math.exp(score - row[0]) for score in row)) for row in rows) / len(rows)


# InfoNCE over the batch


@quick
@given(rows=ROWS, group=st.integers(1, 4), seed=SEEDS, temperature=st.sampled_from([0.02, 0.1, 1.0]))
def test_contrast_is_the_multiple_negatives_ranking_loss(rows, group, seed, temperature):
    queries, documents, _ = drawn(rows, group, seed)
    peer = MultipleNegativesRankingLoss(None, scale=1 / temperature)
    theirs = peer.compute_loss_from_embeddings(columns(queries, documents), None)
    torch.testing.assert_close(contrast(queries, documents, temperature), theirs)


@quick
@given(rows=ROWS, group=st.integers(1, 4), seed=SEEDS)
def test_a_document_known_to_its_own_query_alone_changes_nothing(rows, group, seed):
    queries, documents, _ = drawn(rows, group, seed)
    own = torch.eye(rows, dtype=torch.bool).repeat_interleave(group, dim=1)
    own[:, torch.arange(rows * group) % group > 0] = False
    torch.testing.assert_close(contrast(queries, documents, 0.1, own), contrast(queries, documents, 0.1))


def test_known_documents_are_left_out():
    queries = torch.tensor([QUERY, QUERY], dtype=torch.float64)
    cosines = ((0.8, 0.5, 0.1, -0.2), (0.9, 0.3, 0.6, 0.0))
    documents = torch.tensor([[at(cosine) for cosine in group] for group in cosines], dtype=torch.float64)
    known = torch.zeros(2, 8, dtype=torch.bool)
    known[0, [0, 4]] = True  # the first query knows its own positive and the second one's
    known[1, [4, 2]] = True  # the second knows its own and a negative of the first
    first = [0.8, 0.5, 0.1, -0.2, 0.3, 0.6, 0.0]
    second = [0.9, 0.8, 0.5, -0.2, 0.3, 0.6, 0.0]
    wanted = mean_loss(*([cosine / 0.5 for cosine in row] for row in (first, second)))
    assert contrast(queries, documents, 0.5, known).item() == pytest.approx(wanted)
    assert known[0, 0] and known[1, 4]  # the caller's mask is not written to


def test_known_documents_get_no_gradient():
    queries, documents, _ = drawn(2, 2, seed=3)
    known = torch.tensor([[False, False, False, True], [False, False, False, False]])
    both = contrast(queries, documents, 0.1, known)
    alone = contrast(queries[1:], documents.reshape(1, 4, -1)[:, [2, 0, 1, 3]], 0.1) / 2
    (of_both,), (of_second,) = gradients(both, documents), gradients(alone, documents)
    torch.testing.assert_close(of_both[1, 1], of_second[1, 1])


@pytest.mark.parametrize("group", [1, 3])
def test_a_query_that_knows_all_other_documents_has_no_loss_and_finite_gradients(group):
    queries, documents, _ = drawn(3, group, seed=1)
    known = torch.zeros(3, 3 * group, dtype=torch.bool)
    known[0] = True
    loss = contrast(queries, documents, 0.02, known)
    of_queries, of_documents = gradients(loss, queries, documents)
    assert loss.isfinite() and of_queries.isfinite().all() and of_documents.isfinite().all()
    assert not of_queries[0].any() and of_queries[1:].any(dim=1).all()


# InfoNCE within each group


def test_group_contrast_by_hand():
    queries = torch.tensor([QUERY, QUERY], dtype=torch.float64)
    cosines = ((0.8, 0.5, -0.2), (0.3, 0.6, 0.0))
    documents = torch.tensor([[at(cosine) for cosine in group] for group in cosines], dtype=torch.float64)
    wanted = mean_loss(*([cosine / 0.5 for cosine in group] for group in cosines))
    assert group_contrast(queries, documents, 0.5).item() == pytest.approx(wanted)


@quick
@given(rows=st.integers(2, 6), seed=SEEDS)
def test_in_groups_the_documents_of_other_rows_do_not_count(rows, seed):
    queries, documents, _ = drawn(rows, 3, seed)
    alone = [contrast(queries[i : i + 1], documents[i : i + 1], 0.1) for i in range(rows)]
    torch.testing.assert_close(group_contrast(queries, documents, 0.1), torch.stack(alone).mean())


# Soft labels


@quick
@given(
    rows=ROWS,
    group=st.integers(2, 5),
    seed=SEEDS,
    temperature=st.sampled_from([0.02, 0.2, 1.0]),
    of_teacher=st.sampled_from([0.3, 1.0, 4.0]),
)
def test_distillation_is_the_kl_loss_without_its_squared_temperature(rows, group, seed, temperature, of_teacher):
    queries, documents, teacher = drawn(rows, group, seed)
    peer = DistillKLDivLoss(None, student_temperature=temperature, teacher_temperature=of_teacher)
    theirs = peer.compute_loss_from_embeddings(columns(queries, documents), teacher.float()) / temperature**2
    ours = distillation(queries, documents, teacher, temperature, of_teacher)
    wanted = functional.softmax(teacher / of_teacher, dim=1)
    entropy = -(wanted * wanted.log()).sum(dim=1).mean()
    torch.testing.assert_close(ours, theirs + entropy, rtol=1e-5, atol=1e-5)
    for mine, other in zip(gradients(ours, queries, documents), gradients(theirs, queries, documents), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_distillation_by_hand():
    queries = torch.tensor([QUERY], dtype=torch.float64)
    documents = torch.tensor([[at(0.6), at(0.2)]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)  # a quarter and three quarters
    first = 1 / (1 + math.exp((0.2 - 0.6) / 0.5))
    wanted = -(0.25 * math.log(first) + 0.75 * math.log(1 - first))
    assert distillation(queries, documents, teacher, 0.5, 1.0).item() == pytest.approx(wanted)


def test_distillation_is_least_where_the_model_agrees_with_the_teacher():
    queries, documents, _ = drawn(3, 4, seed=5)
    agreeing = group_scores(queries, documents).detach() / 0.1
    (gradient,) = gradients(distillation(queries, documents, agreeing, 0.1, 1.0), documents)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


def test_group_scores_are_cosines():
    queries, documents, _ = drawn(3, 2, seed=8)
    wanted = [
        [torch.dot(query, document) for document in group] for query, group in zip(queries, documents, strict=True)
    ]
    torch.testing.assert_close(group_scores(queries, documents), torch.stack([torch.stack(row) for row in wanted]))
