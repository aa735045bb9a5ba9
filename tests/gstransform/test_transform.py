import functools
import math

import numpy as np
import pytest
from fakes import WordEmbedding
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct.errors import (
    ConfigurationError,
    DimensionMismatchError,
    IncompatibleStoreError,
    InstructError,
)
from llama_index_instruct.gstransform import transform as module
from llama_index_instruct.gstransform.contrastive import ContrastiveSettings
from llama_index_instruct.gstransform.fingerprint import afingerprint, agrees, fingerprint
from llama_index_instruct.gstransform.fisher import FisherSettings
from llama_index_instruct.gstransform.ridge import RidgeSettings
from llama_index_instruct.gstransform.transform import GSTransform

METHODS = ("ridge", "fisher", "contrastive", "contrastive-mlp")
LINEAR = METHODS[:3]
D = 6


def clustered(seed=0, n=40, d=D, classes=3, noise=0.6, centres=None):
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(n) % classes)
    centres = rng.normal(size=(classes, d)) if centres is None else centres
    return (centres[codes] + noise * rng.normal(size=(n, d))).astype(np.float32), codes.tolist()


def quick(method):
    if method.startswith("contrastive"):
        return ContrastiveSettings(epochs=4, dimension=5, hidden=7, learning_rate=0.01)
    return None


def fit(vectors, labels, method="ridge", **changes):
    return GSTransform.from_labels(vectors, labels, method=method, **{"settings": quick(method), **changes})


@functools.cache
def fitted(method, normalize=True):
    return fit(*clustered(), method, normalize=normalize)


def by_hand(transform, vectors):
    """What the transform is said to do, in double precision."""
    rows = np.array(vectors, dtype=np.float64)
    if transform.info.normalized:
        rows = np.array([row / np.linalg.norm(row) if row.any() else row for row in rows])
    rows = rows * transform.info.scale
    for number, (weight, bias) in enumerate(transform.layers):
        rows = np.maximum(rows, 0.0) if number else rows
        rows = np.array([[w @ row + b for w, b in zip(weight, bias, strict=True)] for row in rows])
    return rows


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def same_class_share(transform, vectors, codes, k=10):
    outputs = unit(transform.transform(vectors))
    scores = outputs @ outputs.T - 9 * np.eye(len(outputs))
    nearest = np.argsort(-scores, axis=1)[:, :k]
    return np.mean(np.array(codes)[nearest] == np.array(codes)[:, None])


def layers_equal(a, b):
    return all(
        np.array_equal(x, y)
        for one, other in zip(a.layers, b.layers, strict=True)
        for x, y in zip(one, other, strict=True)
    )


# transform


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_transform_is_the_formula(method, normalize):
    transform = fitted(method, normalize)
    vectors = np.vstack([clustered(1)[0], np.zeros((1, D))])
    outputs = transform.transform(vectors)
    assert outputs.dtype == np.float32 and outputs.shape == (41, transform.output_dimension)
    assert transform.input_dimension == D and transform.is_linear == (method != "contrastive-mlp")
    np.testing.assert_allclose(outputs, by_hand(transform, vectors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_row_alone_is_the_row_in_a_batch(method, normalize, monkeypatch):
    transform = fitted(method, normalize)
    vectors = clustered(2, n=23)[0]
    vectors[[3, 9, 11]] = np.array([[0.0], [np.nan], [1e-25]])
    if normalize:
        vectors[5] *= 1e30
    batch = transform.transform(vectors)
    assert np.isnan(batch[9]).all() and np.isfinite(np.delete(batch, 9, axis=0)).all()
    size = np.nanmax(np.abs(batch))
    for row, expected in zip(vectors, batch, strict=True):
        np.testing.assert_allclose(transform.transform(row[None])[0], expected, atol=1e-5 * size)
    order = np.random.default_rng(0).permutation(23)
    np.testing.assert_allclose(transform.transform(vectors[order]), batch[order], atol=1e-5 * size)
    monkeypatch.setattr(module, "BLOCK", 4)
    np.testing.assert_allclose(transform.transform(vectors), batch, atol=1e-5 * size)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows_are_no_rows(method):
    transform = fitted(method)
    assert transform.transform(np.zeros((0, D))).shape == (0, transform.output_dimension)
    assert transform.similarity(np.ones(D), np.zeros((0, D))).shape == (0,)


@given(st.sampled_from(LINEAR), st.integers(0, 10_000), st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_without_normalising_the_map_is_affine(method, seed, share):
    transform = fitted(method, False)
    x, y = np.random.default_rng(seed).normal(size=(2, 4, D))
    mixed = transform.transform(share * x + (1 - share) * y)
    expected = share * transform.transform(x).astype(float) + (1 - share) * transform.transform(y).astype(float)
    np.testing.assert_allclose(mixed, expected, atol=1e-5 * (1 + np.abs(expected).max()))


@given(st.sampled_from(METHODS), st.integers(0, 10_000), st.integers(-30, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_length_of_a_vector_does_not_matter(method, seed, exponent, each):
    transform = fitted(method)
    vectors = np.random.default_rng(seed).normal(size=(5, D)).astype(np.float32)
    factor = np.float32(10.0**exponent) if not each else 10.0 ** np.linspace(-25, exponent, 5)[:, None]
    scaled = (vectors * factor).astype(np.float32)
    np.testing.assert_allclose(transform.transform(scaled), transform.transform(vectors), atol=2e-5)
    np.testing.assert_allclose(transform.transform_query(scaled[4]), transform.transform_query(vectors[4]), atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_length_of_a_training_vector_does_not_matter(method):
    vectors, labels = clustered(3)
    new = clustered(4)[0]
    lengths = (10.0 ** np.random.default_rng(0).uniform(-20, 20, size=(40, 1))).astype(np.float32)
    one, other = (fit(rows, labels, method).similarity(new[0], new) for rows in (vectors, vectors * lengths))
    np.testing.assert_allclose(one, other, atol=1e-4)


def spelt(vectors, how, folder):
    if how == "memmap":
        np.save(folder / "vectors.npy", vectors)
        return np.load(folder / "vectors.npy", mmap_mode="r")
    if how == "read-only":
        vectors = vectors.copy()
        vectors.setflags(write=False)
        return vectors
    if how == "strided":
        return np.repeat(np.repeat(vectors, 2, axis=0), 3, axis=1)[::2, ::3]
    return {
        "float64": vectors.astype(np.float64),
        "float16": vectors.astype(np.float16),
        "list": vectors.tolist(),
        "Fortran": np.asfortranarray(vectors),
        "rows": list(vectors),
        "big-endian": vectors.astype(">f4"),
    }[how]


WAYS = ("float64", "float16", "list", "rows", "Fortran", "read-only", "strided", "memmap", "big-endian")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_spelling_of_the_vectors_does_not_matter(how, normalize, tmp_path):
    # Numbers that float16 has, so that every way says the same.
    vectors, labels = clustered(5)
    vectors = vectors.astype(np.float16).astype(np.float32)
    given_ = spelt(vectors, how, tmp_path)
    before = np.array(given_, dtype=np.float64)
    for method in METHODS:
        plain = fit(vectors, labels, method, normalize=normalize, unlabelled=vectors[:9])
        other = fit(given_, labels, method, normalize=normalize, unlabelled=given_[:9])
        expected = plain.transform(vectors)
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(plain.transform(given_), expected, atol=atol)
        np.testing.assert_allclose(other.transform(vectors), expected, atol=10 * atol)
        np.testing.assert_allclose(
            plain.similarity(given_[0], given_), plain.similarity(vectors[0], vectors), atol=1e-5
        )
        if plain.is_linear:
            np.testing.assert_allclose(plain.search_vector(given_[0]), plain.search_vector(vectors[0]), atol=1e-5)
    np.testing.assert_array_equal(np.array(given_, dtype=np.float64), before)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_given_is_written_to(method, normalize):
    vectors, labels = clustered(5)
    vectors[2] = 0.0
    kept = vectors.copy()
    transform = fit(vectors, labels, method, normalize=normalize, unlabelled=vectors, fingerprint=vectors[:3])
    transform.similarity(vectors[0], vectors)
    np.testing.assert_array_equal(vectors, kept)
    weights = [weight.copy() for weight, _ in transform.layers]
    vectors[:] = 7.0
    assert all(np.array_equal(a, b) for a, (b, _) in zip(weights, transform.layers, strict=True))


def test_out_is_filled_and_returned():
    transform, vectors = fitted("ridge"), clustered(1)[0]
    wide = np.full((40, 2 * transform.output_dimension), -1, dtype=np.float32)
    for out in (wide[:, : transform.output_dimension], np.empty((40, 9), dtype=np.float32, order="F")):
        assert transform.transform(vectors, out=out) is out
        np.testing.assert_allclose(out, transform.transform(vectors), atol=1e-6)
    assert (wide[:, transform.output_dimension :] == -1).all()


@pytest.mark.parametrize(
    ("shape", "dtype"), [((40, 8), np.float32), ((39, 9), np.float32), ((40, 9), np.float64), ((9, 40), np.float32)]
)
def test_out_of_another_shape_is_named(shape, dtype):
    with pytest.raises(DimensionMismatchError, match=r"out: expected shape \(40, 9\), float32"):
        fitted("ridge").transform(clustered()[0], out=np.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 5), (3, 7), (6,), (2, 3, 6)])
def test_vectors_of_another_size_are_named(shape):
    with pytest.raises(DimensionMismatchError, match=r"expects shape \(n, 6\), found"):
        fitted("ridge").transform(np.ones(shape))
    if shape != (6,):
        with pytest.raises(DimensionMismatchError):
            fitted("ridge").transform_query(np.ones(shape))


@pytest.mark.parametrize("row", [np.full(D, np.inf), np.r_[-np.inf, np.ones(D - 1)], np.r_[np.inf, np.nan, np.ones(4)]])
@pytest.mark.parametrize("normalize", [True, False])
def test_infinite_rows_harm_no_other(row, normalize):
    transform, vectors = fitted("ridge", normalize), clustered(6)[0]
    expected = transform.similarity(vectors[0], vectors)
    vectors[7] = row
    scores = transform.similarity(vectors[0], vectors)
    np.testing.assert_allclose(np.delete(scores, 7), np.delete(expected, 7), atol=1e-6)
    assert not np.isfinite(scores[7])


def test_huge_double_precision_vectors_are_not_infinite():
    transform, vectors = fitted("ridge"), clustered(6)[0].astype(np.float64)
    np.testing.assert_allclose(transform.transform(1e300 * vectors), transform.transform(vectors), atol=1e-5)


# similarity and query


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_similarity_is_the_cosine_of_the_outputs(method, normalize):
    transform, vectors = fitted(method, normalize), clustered(7)[0]
    query = vectors[0] + vectors[1]
    rows, [z] = by_hand(transform, vectors), by_hand(transform, query[None])
    expected = [row @ z / math.sqrt(row @ row) / math.sqrt(z @ z) for row in rows]
    found = transform.similarity(query, vectors)
    assert found.dtype == np.float32 and np.abs(found).max() <= 1.0
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(transform.transform_query(query), z / np.linalg.norm(z), atol=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
def test_rows_without_a_direction_have_a_score_of_their_own(normalize):
    transform, vectors = fitted("ridge", normalize), clustered(7)[0]
    expected = transform.similarity(vectors[0], vectors)
    vectors[[3, 5]] = np.array([[np.nan], [0.0]])
    found = transform.similarity(vectors[0], vectors)
    np.testing.assert_allclose(np.delete(found, [3, 5]), np.delete(expected, [3, 5]), atol=1e-6)
    assert np.isnan(found[3]) and found[5] == 0.0


def test_what_maps_to_zero_scores_zero():
    flat = module.similarities(np.array([0.6, 0.8], dtype=np.float32), np.zeros((2, 2), dtype=np.float32))
    assert flat.tolist() == [0.0, 0.0]


def test_huge_outputs_have_a_cosine():
    transform, vectors = fitted("ridge", False), clustered(7)[0]
    far = np.float32(1e6) * vectors
    np.testing.assert_allclose(
        transform.similarity(vectors[0], np.float32(1e30) * vectors), transform.similarity(vectors[0], far), atol=1e-4
    )


@pytest.mark.parametrize("method", ["ridge", "contrastive-mlp"])
@pytest.mark.parametrize("query", [np.zeros(D), np.full(D, np.nan), np.r_[np.inf, np.ones(D - 1)], np.full(D, -np.inf)])
def test_a_query_that_says_nothing_is_named(method, query):
    transform = fitted(method)
    for call in (transform.transform_query, lambda q: transform.similarity(q, np.ones((2, D)))):
        with pytest.raises(ConfigurationError, match="query"):
            call(query)
    if transform.is_linear:
        with pytest.raises(ConfigurationError, match="query"):
            transform.search_vector(query)


def test_a_query_at_the_origin_of_the_map_is_named():
    eye = np.eye(2, dtype=np.float32)
    info = module.TransformInfo(normalized=False)
    transform = GSTransform(((eye, np.array([-1.0, -2.0], dtype=np.float32)),), eye, info)
    with pytest.raises(ConfigurationError, match="maps it to zero"):
        transform.search_vector([1.0, 2.0])
    with pytest.raises(ConfigurationError, match="search vector is zero"):
        GSTransform(transform.layers, 0 * eye, info).search_vector([1.0, 3.0])


# search


def faceted(seed, n=1500, d=32):
    """Documents of which a loud facet hides the quiet one that is labelled."""
    rng = np.random.default_rng(seed)
    quiet, loud = rng.integers(0, 6, n), rng.integers(0, 12, n)
    rows = 0.6 * rng.normal(size=(6, d))[quiet] + rng.normal(size=(12, d))[loud] + 0.3 * rng.normal(size=(n, d))
    return unit(rows).astype(np.float32), quiet


@pytest.mark.parametrize(
    ("method", "least", "gain"), [("ridge", 0.85, 0.4), ("fisher", 0.8, 0.4), ("contrastive", 0.8, 0.1)]
)
def test_search_vector_ranks_like_the_transformed_cosine(method, least, gain):
    documents, quiet = faceted(0)
    options = ContrastiveSettings(epochs=12, dimension=8, learning_rate=0.02) if method == "contrastive" else None
    transform = fit(documents[:400], quiet[:400].tolist(), method, settings=options)
    shares = []
    for query in documents[-40:]:
        vector = transform.search_vector(query)
        assert vector.dtype == np.float32 and vector.shape == (32,)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
        exact = transform.similarity(query, documents)
        assert np.corrcoef(documents @ vector, exact)[0, 1] > 0.97
        top = set(np.argsort(-exact)[:200])
        shares.append([len(top & set(np.argsort(-documents @ v)[:200])) / 200 for v in (vector, query)])
    found, plain = np.mean(shares, axis=0)
    assert found > least and found > plain + gain


def test_two_layers_cannot_search():
    with pytest.raises(ConfigurationError, match='fit with "ridge"'):
        fitted("contrastive-mlp").search_vector(np.ones(D))


@pytest.mark.parametrize("method", LINEAR)
def test_search_vector_needs_a_query_of_its_size(method):
    for query in (np.ones(5), np.ones((1, D)), np.ones(())):
        with pytest.raises(DimensionMismatchError):
            fitted(method).search_vector(query)


# stores and models


@pytest.mark.parametrize(
    ("distance", "normalize", "store", "error", "words"),
    [
        ("Cosine", True, {"dimension": 7}, DimensionMismatchError, "transform expects 6, shop has 7"),
        ("", True, {"dimension": 6, "distance": "Dot"}, None, ""),
        ("Cosine", True, {"dimension": 6, "distance": "Cosine"}, None, ""),
        (
            "Cosine",
            True,
            {"distance": "Dot"},
            IncompatibleStoreError,
            "fitted on Cosine vectors, shop has distance Dot",
        ),
        ("Dot", False, {"distance": "Cosine"}, IncompatibleStoreError, "Dot"),
        ("", False, {"distance": "Cosine"}, IncompatibleStoreError, "normalize=False, but shop has distance Cosine"),
        ("Dot", False, {"distance": "Dot"}, None, ""),
        ("Cosine", True, {}, None, ""),
        ("Cosine", True, {"distance": ""}, None, ""),
    ],
)
def test_a_store_it_was_not_fitted_for_is_refused(distance, normalize, store, error, words):
    transform = fit(*clustered(), distance=distance, normalize=normalize)
    if error is None:
        transform.check_store(name="shop", **store)
        return
    with pytest.raises(error, match=words):
        transform.check_store(name="shop", **store)


async def test_a_model_is_known_by_its_vectors():
    probes = fingerprint(WordEmbedding())
    assert probes.shape == (3, 64) and probes.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(probes, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(await afingerprint(WordEmbedding()), probes)
    noise = np.random.default_rng(0).normal(size=probes.shape)
    assert agrees(probes, unit(probes + 1e-3 * noise).astype(np.float32))
    assert not agrees(probes, unit(probes + 0.1 * noise).astype(np.float32))
    assert not agrees(probes, probes[[0, 2, 1]]) and not agrees(probes, probes[:, :32])
    assert not agrees(probes, np.full_like(probes, np.nan))
    transform = fit(*clustered(d=64), fingerprint=probes)
    assert transform.matches(probes) and not transform.matches(-probes)
    assert fit(*clustered(d=64)).matches(-probes)


# from_labels


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"vectors": np.ones(6)}, DimensionMismatchError, r"vectors: expected shape \(n, d\).* found \(6,\)"),
        ({"vectors": np.ones((0, 6)), "labels": []}, DimensionMismatchError, r"found \(0, 6\)"),
        ({"vectors": np.ones((40, 0))}, DimensionMismatchError, r"found \(40, 0\)"),
        ({"vectors": np.ones((2, 2, 2))}, DimensionMismatchError, r"found \(2, 2, 2\)"),
        ({"labels": ["a", "b"]}, DimensionMismatchError, "labels: expected 40, one per vector, found 2"),
        ({"labels": np.eye(41)}, DimensionMismatchError, "expected 40, one per vector, found 41"),
        ({"labels": ["a", "b"], "unlabelled": np.ones((3, 6))}, DimensionMismatchError, "expected 40.* found 2"),
        ({"labels": ["a"] * 40}, ConfigurationError, "two classes"),
        ({"labels": [None] * 40}, ConfigurationError, "two classes"),
        ({"label_names": ["a", "b", "c"]}, ConfigurationError, "label_names"),
        ({"labels": np.ones((40, 2)), "label_names": ["a"]}, DimensionMismatchError, "expected 2.* found 1"),
        ({"labels": -np.ones((40, 2))}, ConfigurationError, "negative"),
        ({"unlabelled": np.ones((3, 5))}, DimensionMismatchError, "unlabelled: expected vectors of size 6, found 5"),
        ({"unlabelled": np.ones(6)}, DimensionMismatchError, "unlabelled: expected shape"),
        ({"method": "lda"}, ConfigurationError, "method: expected one of ridge, fisher"),
        ({"settings": FisherSettings()}, ConfigurationError, "settings: expected RidgeSettings"),
        ({"output_dimension": 0}, ConfigurationError, "output_dimension"),
        ({"output_dimension": -3}, ConfigurationError, "output_dimension"),
        (
            {"method": "contrastive-mlp", "settings": quick("contrastive-mlp"), "output_dimension": 3},
            ConfigurationError,
            "ContrastiveSettings.dimension",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, error, words):
    vectors, labels = clustered()
    arguments = {"vectors": vectors, "labels": labels, **changes}
    with pytest.raises(error, match=words):
        GSTransform.from_labels(**arguments)


@pytest.mark.parametrize("where", ["vectors", "unlabelled"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_that_are_not_finite_are_counted(where, value, normalize):
    vectors, labels = clustered()
    bad = vectors.copy()
    bad[[4, 8], 1] = value
    with pytest.raises(ConfigurationError, match="in 2 rows, first 4" if where == "vectors" else "in 2 rows"):
        if where == "vectors":
            fit(bad, labels, normalize=normalize)
        else:
            fit(vectors, labels, unlabelled=bad, normalize=normalize)


def test_info_says_where_it_comes_from():
    vectors, labels = clustered()
    names = [["low", "mid", "high"][code] for code in labels[:-1]]
    transform = GSTransform.from_labels(
        vectors,
        [*names, None],
        instruction="How urgent?",
        settings=RidgeSettings(penalties=[2.0]),
        embed_model="m",
        distance="Dot",
        normalize=False,
        seed=4,
    )
    info = transform.info
    assert (info.instruction, info.method, info.embed_model, info.distance) == ("How urgent?", "ridge", "m", "Dot")
    assert (info.normalized, info.scale, info.seed) == (False, 1.0, 4) and info.version
    assert info.labels == {name: names.count(name) for name in ("high", "low", "mid")}
    assert info.losses["penalty"] == 2.0 and 0.0 < info.losses["leave_one_out_error"] < 2.0
    assert fitted("contrastive").info.scale == pytest.approx(math.sqrt(D) / 2)


@pytest.mark.parametrize("method", METHODS)
def test_soft_labels_that_are_certain_are_hard_labels(method):
    vectors, labels = clustered(8)
    hard = fit(vectors, labels, method)
    soft = fit(vectors, 5.0 * np.eye(3)[labels], method, label_names=["0", "1", "2"])
    assert layers_equal(hard, soft) and hard.info == soft.info
    gaps = [None if row % 4 == 0 else label for row, label in enumerate(labels)]
    certain = np.array([[np.nan] * 3 if label is None else np.eye(3)[label] for label in gaps])
    assert layers_equal(fit(vectors, gaps, method), fit(vectors, certain, method))


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_repeatable(method):
    vectors, labels = clustered(9)
    labels[3] = None
    one, other = fit(vectors, labels, method, seed=5), fit(vectors, labels, method, seed=5)
    assert layers_equal(one, other) and one.info == other.info
    if one.is_linear:
        np.testing.assert_array_equal(one.search, other.search)
    assert layers_equal(one, fit(vectors, labels, method, seed=6)) == (method in ("ridge", "fisher"))


@pytest.mark.parametrize("method", METHODS)
def test_rows_without_labels_are_unlabelled_vectors(method):
    vectors, labels = clustered(10)
    more = clustered(11, n=25)[0]
    apart = fit(vectors, labels, method, unlabelled=more)
    together = fit(np.vstack([vectors, more]), labels + [None] * 25, method)
    without = fit(vectors, labels, method)
    assert layers_equal(apart, together) and apart.info == together.info
    assert layers_equal(apart, without) == (method != "ridge")
    assert apart.info.labels == without.info.labels


def test_unlabelled_vectors_may_weigh_nothing():
    vectors, labels = clustered(10)
    none = RidgeSettings(unlabelled_weight=0.0)
    more = clustered(11)[0]
    assert layers_equal(
        fit(vectors, labels, settings=none, unlabelled=more), fit(vectors, labels, settings=RidgeSettings())
    )
    light = [fit(vectors, labels, settings=RidgeSettings(unlabelled_weight=w), unlabelled=more) for w in (1e-6, 1.0)]
    plain = fit(vectors, labels).transform(vectors)
    gaps = [np.abs(transform.transform(vectors) - plain).max() for transform in light]
    assert gaps[0] < 0.05 * gaps[1]


@pytest.mark.parametrize(("normalize", "length"), [(True, 1.0), (True, 30.0), (False, 1.0), (False, 30.0)])
def test_unlabelled_vectors_help_where_labels_are_few(normalize, length):
    gains = []
    for seed in range(5):
        centres = 0.5 * np.random.default_rng(100 + seed).normal(size=(4, 16))
        (few, codes), (more, _), (new, truth) = (
            clustered(1000 * seed + part, n=n, d=16, classes=4, centres=centres)
            for part, n in enumerate((24, 300, 200))
        )
        few, more, new = (length * unit(rows) for rows in (few, more, new))
        with_, without = fit(few, codes, unlabelled=more, normalize=normalize), fit(few, codes, normalize=normalize)
        gains.append(same_class_share(with_, new, truth) - same_class_share(without, new, truth))
    assert np.mean(gains) > 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_transform_brings_a_class_together(method):
    documents, quiet = faceted(1, n=700)
    options = None
    if method.startswith("contrastive"):
        options = ContrastiveSettings(epochs=12, dimension=8, hidden=32, learning_rate=0.02)
    transform = fit(documents[:400], quiet[:400].tolist(), method, settings=options)
    plain = GSTransform(((np.eye(32, dtype=np.float32), np.zeros(32, dtype=np.float32)),), None, transform.info)
    new, truth = documents[400:], quiet[400:]
    assert same_class_share(transform, new, truth) > same_class_share(plain, new, truth) + 0.1


RNG = np.random.default_rng(0)
SOME = RNG.normal(size=(40, D))
AB = ["a", "b"] * 20
ODD = {
    "two rows": (SOME[:2], ["a", "b"]),
    "one row of soft labels": (SOME[:1], np.array([[0.5, 0.5]])),
    "one dimension": (SOME[:, :1], AB),
    "one dimension, one sign": (np.abs(SOME[:, :1]), AB),
    "more dimensions than rows": (SOME[:4], AB[:4]),
    "equal rows": (np.full((40, D), 0.3), AB),
    "rows of zeros": (np.zeros((40, D)), AB),
    "a row of zeros": (np.vstack([SOME[:39], np.zeros((1, D))]), AB),
    "two points repeated": (np.repeat(SOME[:2], 20, axis=0), ["a"] * 20 + ["b"] * 20),
    "one point, both labels": (np.repeat(SOME[:20], 2, axis=0), AB),
    "classes of one member": (SOME[:6], list("abcdef")),
    "a class of one member": (SOME, ["b", *["a"] * 39]),
    "numbers as labels": (SOME, [3, -1] * 20),
    "mostly unlabelled": (SOME, ["a", "b", *[None] * 38]),
    "a huge row": (np.vstack([SOME[:39], np.full((1, D), 1e30)]), AB),
    "huge rows": (1e30 * SOME, AB),
    "huge rows, some unlabelled": (1e30 * SOME, AB[:30] + [None] * 10),
    "tiny rows": (1e-30 * SOME, AB),
}
# What has no spread has no direction to search along.
FLAT = {"one row of soft labels", "one dimension, one sign", "equal rows", "rows of zeros"}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ODD)
def test_odd_vectors_give_finite_results_or_a_typed_error(name, method, normalize):
    vectors, labels = ODD[name]
    d = vectors.shape[1]
    query = vectors[0] if vectors[0].any() else np.ones(d)
    try:
        transform = fit(vectors, labels, method, normalize=normalize)
        results = [transform.transform(vectors), transform.similarity(query, vectors)]
        if transform.is_linear:
            results.append(transform.search_vector(query))
    except InstructError:
        assert name in FLAT or (not normalize and ("huge" in name or "tiny" in name))
        return
    assert all(np.isfinite(result).all() for result in results)
    assert all(np.isfinite(array).all() for layer in transform.layers for array in layer)


@pytest.mark.parametrize("two_layers", [False, True])
@pytest.mark.parametrize("rate", [1e10, 1e30])
def test_training_that_diverges_is_said(two_layers, rate):
    vectors, labels = clustered()
    options = ContrastiveSettings(epochs=5, dimension=4, hidden=4, learning_rate=rate)
    method = "contrastive-mlp" if two_layers else "contrastive"
    try:
        transform = fit(vectors, labels, method, settings=options)
    except InstructError:
        return
    assert transform.info.losses["best_epoch"] >= 0


@given(
    st.integers(0, 10_000),
    st.sampled_from(["ridge", "fisher"]),
    st.integers(2, 12),
    st.integers(1, 6),
    st.booleans(),
    st.none() | st.integers(1, 9),
)
@settings(max_examples=120, deadline=None)
def test_any_labels_of_any_vectors_give_a_map(seed, method, n, d, normalize, output_dimension):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(n, d)) * rng.choice([0.01, 1.0, 10.0])
    labels = ["a", "b", *rng.choice(["a", "b", "c", None], size=n - 2)]
    transform = fit(vectors, labels, method, normalize=normalize, output_dimension=output_dimension)
    assert np.isfinite(transform.transform(vectors)).all()
    assert transform.output_dimension <= (output_dimension or 99)
    try:
        scores = transform.similarity(rng.normal(size=d), vectors)
    except ConfigurationError as error:
        # In one dimension a unit vector may be the origin itself.
        assert d == 1 and "maps it to zero" in str(error)
        return
    assert np.isfinite(scores).all() and np.abs(scores).max() <= 1.0


def test_explained_tells_signal_from_noise():
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=300)
    vectors = rng.normal(size=(300, 12))
    vectors[:, :3] += 4.0 * np.eye(3)[codes]
    assert GSTransform.from_labels(vectors, codes.tolist()).explained > 0.6
    assert GSTransform.from_labels(vectors, rng.permutation(codes).tolist()).explained < 0.05
    assert GSTransform.from_labels(vectors, codes.tolist(), method="fisher").explained is None
