"""What scikit-learn asks of every estimator, asked of ours: those of its checks that no other test makes."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import numpy as np
import pytest
import scipy.sparse
import torch

from llama_index_instruct import (
    GSTransform,
    InstructError,
    refine_query,
)
from llama_index_instruct.gstransform.contrastive import ContrastiveSettings
from llama_index_instruct.gstransform.fisher import FisherSettings
from llama_index_instruct.gstransform.labelling import LabelSettings
from llama_index_instruct.gstransform.ridge import RidgeSettings
from llama_index_instruct.refinement.logistic import LogisticPrior
from llama_index_instruct.refinement.selection import SelectionSettings
from llama_index_instruct.refinement.settings import KLSettings, LogisticSettings, RocchioSettings

METHODS = ("ridge", "fisher", "contrastive", "contrastive-mlp")
SOLVERS = ("logistic", "kl", "rocchio")
N, D = 40, 6


def drawn(seed=0, d=D):
    rng = np.random.default_rng(seed)
    codes = np.arange(N) % 3
    return rng.normal(size=(3, d))[codes] + 0.6 * rng.normal(size=(N, d)), codes


def fitted(method="ridge", seed=0, d=D, **settings):
    vectors, codes = drawn(seed, d)
    options = ContrastiveSettings(epochs=3, dimension=5, hidden=7) if method.startswith("contrastive") else None
    return GSTransform.from_labels(vectors, codes.tolist(), method=method, settings=options, **settings)


def outputs(transform, vectors):
    found = [transform.transform(vectors), transform.transform_query(vectors[0])]
    found.append(transform.similarity(vectors[0], vectors))
    return [*found, transform.search_vector(vectors[0])] if transform.is_linear else found


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


# from_labels and transform


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, np.int8, bool])
@pytest.mark.parametrize("method", METHODS)
def test_what_comes_out_is_float32(method, dtype):
    rows = (10 * drawn(1)[0]).astype(dtype)
    assert {found.dtype for found in outputs(fitted(method), rows)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("method", METHODS)
def test_transforming_changes_nothing_of_the_transform(method):
    transform, vectors = fitted(method), drawn(2)[0]
    before, digest = pickle.dumps(transform), transform.digest
    for _ in range(2):
        outputs(transform, vectors)
    assert pickle.dumps(transform) == before and transform.digest == digest


@pytest.mark.parametrize("method", METHODS)
def test_fits_do_not_hang_on_what_was_fitted_or_drawn_before(method):
    first = fitted(method)
    fitted(method, seed=1)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    states = random_states()
    again = fitted(method)
    assert random_states() == states
    assert again.digest == first.digest and again.info == first.info


@pytest.mark.parametrize("method", METHODS)
def test_order_and_number_of_rows_do_not_matter_to_a_score(method):
    transform, vectors = fitted(method), drawn(3)[0]
    whole = transform.similarity(vectors[5], vectors)
    order = np.random.default_rng(0).permutation(N)
    np.testing.assert_allclose(transform.similarity(vectors[5], vectors[order]), whole[order], atol=1e-6)
    for rows in (slice(0, 1), slice(7, 9), slice(N, None)):
        np.testing.assert_allclose(transform.similarity(vectors[5], vectors[rows]), whole[rows], atol=1e-6)


@pytest.mark.parametrize(
    "clone", [lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy, replace], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("method", METHODS)
def test_copies_of_a_transform_are_the_same_transform(method, clone):
    probes = drawn(9)[0][:3].astype(np.float32)
    transform = fitted(method, instruction="x", label_names=None, fingerprint=probes)
    other, vectors = clone(transform), drawn(4)[0]
    assert other.digest == transform.digest and other.info == transform.info and other.matches(probes)
    for one, two in zip(outputs(transform, vectors), outputs(other, vectors), strict=True):
        np.testing.assert_array_equal(one, two)


def by_matrix(weight, normalized):
    """A transform that multiplies by a matrix."""
    weight = np.asarray(weight, dtype=np.float32)
    return GSTransform(
        ((weight, np.zeros(len(weight), dtype=np.float32)),), None, replace(fitted().info, normalized=normalized)
    )


def test_the_identity_changes_nothing():
    vectors = drawn(5)[0].astype(np.float32)
    np.testing.assert_array_equal(by_matrix(np.eye(D), normalized=False).transform(vectors), vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(by_matrix(np.eye(D), normalized=True).transform(vectors), unit, atol=1e-6)


def test_a_rotation_keeps_lengths_and_cosines():
    vectors = drawn(6)[0]
    turn = by_matrix(np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0], normalized=False)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(np.linalg.norm(turn.transform(vectors), axis=1), lengths, rtol=1e-5)
    cosines = vectors @ vectors[0] / lengths / lengths[0]
    np.testing.assert_allclose(turn.similarity(vectors[0], vectors), cosines, atol=1e-6)


# refine_query


def spelt(array, how, folder):
    if how == "memmap":
        np.save(folder / f"{array.shape}.npy", array)
        return np.load(folder / f"{array.shape}.npy", mmap_mode="r")
    if how == "read-only":
        array = array.copy()
        array.setflags(write=False)
        return array
    if how == "strided":
        return np.repeat(array, 2, axis=0)[::2]
    return {
        "float32": array.astype(np.float32),
        "float16": array.astype(np.float16),
        "big-endian": array.astype(">f8"),
        "list": array.tolist(),
        "rows": list(array),
        "Fortran": np.asfortranarray(array),
        "objects": array.astype(object),
    }[how]


@pytest.mark.parametrize(
    "how", ["float32", "float16", "big-endian", "list", "rows", "Fortran", "objects", "read-only", "strided", "memmap"]
)
@pytest.mark.parametrize("method", SOLVERS)
def test_the_spelling_of_query_passages_and_relevance_does_not_matter(method, how, tmp_path):
    # Numbers that float16 has, so that every way says the same.
    vectors, codes = (array.astype(np.float16).astype(np.float64) for array in drawn(7))
    relevance = (codes == 1).astype(np.float64)
    plain = refine_query(vectors[0], vectors[1:], relevance[1:], method=method)
    given = [spelt(array, how, tmp_path) for array in (vectors[0], vectors[1:], relevance[1:])]
    before = [np.array(array, dtype=np.float64) for array in given]
    other = refine_query(*given, method=method)
    np.testing.assert_allclose(other.vector, plain.vector, atol=1e-6)
    assert other.vector.dtype == np.float32 and other.angle == pytest.approx(plain.angle, abs=1e-6)
    for array, kept in zip(given, before, strict=True):
        np.testing.assert_array_equal(np.array(array, dtype=np.float64), kept)


@pytest.mark.parametrize("answers", [lambda codes: codes == 1, lambda codes: (codes == 1).astype(int)])
def test_answers_may_be_true_and_false_or_ones_and_zeros(answers):
    vectors, codes = drawn(7)
    plain = refine_query(vectors[0], vectors, (codes == 1).astype(float))
    np.testing.assert_array_equal(refine_query(vectors[0], vectors, answers(codes)).vector, plain.vector)


@pytest.mark.parametrize("method", SOLVERS)
def test_refining_twice_gives_the_same_bits_and_draws_nothing(method):
    vectors, codes = drawn(8)
    states = random_states()
    first, second = (refine_query(vectors[0], vectors[1:], codes[1:] == 1, method=method) for _ in range(2))
    assert random_states() == states
    assert pickle.dumps(first) == pickle.dumps(second)


@pytest.mark.parametrize("answers", [[1.0, 0.0], [1.0, 1.0]], ids=["moved", "unmoved"])
def test_the_refined_vector_shares_no_memory_with_the_query(answers):
    query = np.array([0.6, 0.8, 0.0], dtype=np.float32)
    refined = refine_query(query, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.1]], answers)
    assert refined.moved == (answers == [1.0, 0.0])
    refined.vector[:] = 7.0
    np.testing.assert_array_equal(query, np.array([0.6, 0.8, 0.0], dtype=np.float32))


# What is no array of real numbers

NO_NUMBERS = {
    "complex": lambda rows: rows * (1 + 1j),
    "words": lambda rows: np.full(rows.shape, "word").tolist(),
    "a dictionary": lambda rows: {"rows": rows},
    "sparse": scipy.sparse.csr_matrix,
    "rows of two lengths": lambda rows: [*rows.tolist()[:-1], [1.0]],
}
ENTRANCES = {
    "from_labels": lambda rows: GSTransform.from_labels(rows, drawn()[1].tolist()),
    "unlabelled": lambda rows: GSTransform.from_labels(*drawn(), unlabelled=rows),
    "transform": lambda rows: fitted().transform(rows),
    "similarity": lambda rows: fitted().similarity(np.ones(D), rows),
    "refine_query": lambda rows: refine_query(np.ones(D), rows, np.arange(N) % 2),
}


@pytest.mark.parametrize("what", NO_NUMBERS)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_is_no_array_of_real_numbers_is_a_typed_error(entrance, what):
    with pytest.raises(InstructError):
        ENTRANCES[entrance](NO_NUMBERS[what](drawn()[0]))


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        RidgeSettings(),
        FisherSettings(),
        ContrastiveSettings(),
        LabelSettings(),
        LogisticPrior(),
        LogisticSettings(),
        KLSettings(),
        RocchioSettings(),
        SelectionSettings(),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_can_be_cloned_and_not_changed(settings):
    assert is_dataclass(settings) and replace(settings) == settings == pickle.loads(pickle.dumps(settings))
    assert set(vars(settings)) == {field.name for field in fields(settings)}
    for field in fields(settings):
        with pytest.raises(FrozenInstanceError):
            setattr(settings, field.name, getattr(settings, field.name))
