import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError
from llama_index_instruct.gstransform import contrastive, fitting, neighbours
from llama_index_instruct.gstransform.classes import Classes, classes_of
from llama_index_instruct.gstransform.clusters import cluster, merge_near_duplicates
from llama_index_instruct.gstransform.contrastive import ContrastiveSettings, contrastive_loss, fit_contrastive
from llama_index_instruct.gstransform.fisher import FisherSettings, fit_fisher
from llama_index_instruct.gstransform.fitting import fit_map
from llama_index_instruct.gstransform.neighbours import propagate
from llama_index_instruct.gstransform.ridge import RidgeSettings, fit_ridge
from llama_index_instruct.gstransform.searching import PENALTY, fit_search_matrix

LINEAR = ("ridge", "fisher", "contrastive")
QUICK = ContrastiveSettings(epochs=3, dimension=5, hidden=7)


def clustered(seed=0, n=45, d=6, classes=3, noise=0.6):
    """Unit vectors around random centres, and labels of which the first class has half of the rows."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.r_[np.zeros(n // 2, int), np.arange(n - n // 2) % classes])
    vectors = rng.normal(size=(classes, d))[codes] + noise * rng.normal(size=(n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), codes


def with_gaps(codes, every):
    return [None if row % every == 0 else f"c{code}" for row, code in enumerate(codes)]


def soft_classes(seed, n, classes):
    return classes_of(np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=n))


def quick(method):
    return QUICK if method.startswith("contrastive") else None


def fit(vectors, classes, method, **changes):
    arguments = {"settings": quick(method), "output_dimension": None, "seed": 0, **changes}
    return fit_map(vectors, classes, method=method, **arguments)


def cosines(outputs):
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    return unit @ unit.T


# classes


@pytest.mark.parametrize(
    ("labels", "names", "membership"),
    [
        (["b", None, "a"], ("a", "b"), [[0, 1], [0, 0], [1, 0]]),
        ([7, 10, 7], ("10", "7"), [[0, 1], [1, 0], [0, 1]]),
        ([1, "1", "x"], ("1", "x"), [[1, 0], [1, 0], [0, 1]]),
        (["a", math.nan, "b"], ("a", "b"), [[1, 0], [0, 0], [0, 1]]),
        (np.array(["y", "x"]), ("x", "y"), [[0, 1], [1, 0]]),
        (np.array(["y", None, "x"], dtype=object), ("x", "y"), [[0, 1], [0, 0], [1, 0]]),
        (np.array([1, np.nan, 2], dtype=np.float32), ("1.0", "2.0"), [[1, 0], [0, 0], [0, 1]]),
        (np.array([[2, 0, 6], [0, 0, 0], [0, 0, 1]]), ("0", "2"), [[0.25, 0.75], [0, 0], [0, 1]]),
        (np.array([[np.nan, np.nan], [1.0, 0.0], [0.0, 3.0]]), ("0", "1"), [[0, 0], [1, 0], [0, 1]]),
        (np.array([[True, True], [False, True]]), ("0", "1"), [[0.5, 0.5], [0, 1]]),
    ],
)
def test_labels_become_memberships(labels, names, membership):
    classes = classes_of(labels)
    assert classes.names == names
    np.testing.assert_allclose(classes.membership, membership)
    assert classes.labelled.tolist() == [any(row) for row in membership]
    assert classes.codes.tolist() == [int(np.argmax(row)) if any(row) else -1 for row in membership]
    np.testing.assert_allclose(classes.counts, np.sum(membership, axis=0))


def test_columns_that_nobody_has_lose_their_names():
    classes = classes_of(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), ["good", "fair", "bad"])
    assert classes.names == ("good", "bad")


@pytest.mark.parametrize(
    ("labels", "names", "error", "words"),
    [
        (["a", "a", None], None, ConfigurationError, r"two classes or more, found \['a'\]"),
        ([None, None], None, ConfigurationError, r"found \[\]"),
        ([], None, ConfigurationError, "two classes"),
        (np.array([[1.0, 0.0], [2.0, 0.0]]), None, ConfigurationError, "two classes"),
        (np.array([[1.0, -0.1], [0.0, 1.0]]), None, ConfigurationError, "negative"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), None, ConfigurationError, "infinite"),
        (np.array([[1.0, -np.inf], [0.0, 1.0]]), None, ConfigurationError, "infinite"),
        (np.eye(2), ["a"], DimensionMismatchError, "expected 2, one per column of labels, found 1"),
        (["a", "b"], ["a", "b"], ConfigurationError, "label_names"),
    ],
)
def test_labels_that_say_nothing_are_named(labels, names, error, words):
    with pytest.raises(error, match=words):
        classes_of(labels, names)


def test_soft_labels_in_lists_are_soft_labels_or_refused():
    rows = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
    try:
        found = classes_of(rows)
    except (ConfigurationError, DimensionMismatchError):
        return
    np.testing.assert_allclose(found.membership, rows)


@given(st.lists(st.none() | st.text(max_size=2) | st.integers(-3, 3), max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_hard_labels_are_kept_as_they_are(labels):
    written = [None if label is None else str(label) for label in labels]
    if len(set(written) - {None}) < 2:
        with pytest.raises(ConfigurationError):
            classes_of(labels)
        return
    classes = classes_of(labels)
    assert [None if code < 0 else classes.names[code] for code in classes.codes] == written
    assert list(classes.names) == sorted(set(written) - {None})
    assert classes.rows(classes.labelled).membership.sum() == sum(name is not None for name in written)


# ridge


def row_weights(membership, balance):
    n, c = membership.shape
    frequency = [sum(membership[i][k] for i in range(n)) / n for k in range(c)]
    weights = [sum(membership[i][k] * frequency[k] ** -balance for k in range(c)) for i in range(n)]
    return np.array(weights) * n / sum(weights)


def ridge_targets(membership, weights):
    return membership / np.sqrt([np.mean(weights * column) for column in membership.T])


def weighted_ridge(vectors, targets, weights, penalty):
    """Coefficients (d + 1, C), the last row a free intercept, from the normal equations."""
    rows = np.c_[vectors, np.ones(len(vectors))]
    penalties = np.diag(np.r_[np.full(vectors.shape[1], penalty), 0.0])
    return np.linalg.solve(rows.T @ np.diag(weights) @ rows + penalties, rows.T @ np.diag(weights) @ targets)


def refitted_error(vectors, membership, penalty, balance):
    weights = row_weights(membership, balance)
    targets = ridge_targets(membership, weights)
    mean = sum(w * t for w, t in zip(weights, targets, strict=True)) / sum(weights)
    error = 0.0
    for row in range(len(vectors)):
        rest = np.arange(len(vectors)) != row
        coefficients = weighted_ridge(vectors[rest], targets[rest], weights[rest], penalty)
        error += weights[row] * np.sum((np.r_[vectors[row], 1.0] @ coefficients - targets[row]) ** 2)
    return error / sum(w * np.sum((t - mean) ** 2) for w, t in zip(weights, targets, strict=True))


def guessed_memberships(known, membership, others):
    """Kernel ridge regression on all labelled rows, one entry at a time, in double precision."""

    def kernel(a, b):
        return np.array([[math.exp(-sum((x - y) ** 2)) for y in b] for x in a])

    k = kernel(known, known)
    prior = membership.mean(axis=0)
    dual = np.linalg.solve(k.T @ k + 0.3 * k + 1e-3 * np.eye(len(k)), k.T @ (membership - prior))
    return np.eye(membership.shape[1])[np.argmax(kernel(others, known) @ dual + prior, axis=1)]


def slow_ridge(vectors, classes, chosen):
    has = classes.membership.sum(axis=1) > 0
    known, membership = vectors[has], classes.membership[has]
    errors = [refitted_error(known, membership, penalty, chosen.balance) for penalty in chosen.penalties]
    penalty = chosen.penalties[int(np.argmin(errors))]
    rows, everything = known, membership
    if chosen.unlabelled_weight and not has.all():
        rows = np.vstack([known, vectors[~has]])
        everything = np.vstack([membership, guessed_memberships(known, membership, vectors[~has])])
    weights = row_weights(everything, chosen.balance)
    upper = weighted_ridge(rows, ridge_targets(everything, weights), weights, penalty)[:-1].T
    centred = rows - np.average(rows, axis=0, weights=weights)
    scatter = sum(w * np.outer(x, x) for w, x in zip(weights, centred, strict=True))
    floored = scatter / (np.trace(scatter) / len(scatter)) + 1e-3 * np.eye(len(scatter))
    lower = scipy.linalg.fractional_matrix_power(floored, -chosen.whitening / 2)

    def sized(part):
        return part / math.sqrt(
            sum(w * np.sum((part @ x) ** 2) for w, x in zip(weights, centred, strict=True)) / len(rows)
        )

    means = [np.average(known, axis=0, weights=column) for column in membership.T]
    return np.vstack([sized(upper), chosen.damping * sized(lower)]), np.mean(means, axis=0), penalty, min(errors)


@pytest.mark.parametrize(
    "chosen",
    [
        RidgeSettings(),
        RidgeSettings(balance=0.0, whitening=0.0, damping=1.0),
        RidgeSettings(balance=1.0, whitening=1.0, penalties=[0.1, 3.0]),
        RidgeSettings(penalties=(1e-3,)),
        RidgeSettings(unlabelled_weight=0.0, damping=0.0),
    ],
)
@pytest.mark.parametrize("labels", ["hard", "soft", "gaps"])
def test_ridge_is_the_slow_one(chosen, labels):
    vectors, codes = clustered(1, n=24, d=5)
    given_labels = with_gaps(codes, 4) if labels == "gaps" else codes.tolist()
    classes = soft_classes(2, 24, 3) if labels == "soft" else classes_of(given_labels)
    found = fit_ridge(vectors, classes, chosen)
    weight, origin, penalty, error = slow_ridge(vectors, classes, chosen)
    np.testing.assert_allclose(found.weight, weight, atol=1e-9)
    np.testing.assert_allclose(found.origin, origin, atol=1e-12)
    assert found.penalty == penalty and found.error == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("balance", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("penalty", [1e-4, 0.5, 30.0])
def test_leave_one_out_error_is_that_of_refitting(balance, penalty):
    vectors, codes = clustered(3, n=15, d=4)
    classes = classes_of(codes.tolist())
    found = fit_ridge(vectors, classes, RidgeSettings(penalties=[penalty], balance=balance))
    assert found.error == pytest.approx(refitted_error(vectors, classes.membership, penalty, balance), rel=1e-9)


def test_noise_asks_for_a_larger_penalty_than_signal():
    vectors, codes = clustered(0, n=90, noise=0.2)
    told = fit_ridge(vectors, classes_of(codes.tolist()), RidgeSettings())
    noise = fit_ridge(vectors, classes_of(np.random.default_rng(0).permutation(codes).tolist()), RidgeSettings())
    assert told.penalty < noise.penalty and told.error < 0.3 < 0.9 < noise.error


@pytest.mark.parametrize("labels", ["all", "gaps"])
def test_both_parts_have_their_stated_size(labels):
    vectors, codes = clustered(4)
    classes = classes_of(with_gaps(codes, 5) if labels == "gaps" else codes.tolist())
    weight = fit_ridge(vectors, classes, RidgeSettings(balance=0.0, damping=0.3)).weight
    outputs = (vectors - vectors.mean(axis=0)) @ weight.T
    assert weight.shape == (3 + 6, 6)
    assert np.mean(np.sum(outputs[:, :3] ** 2, axis=1)) == pytest.approx(1.0)
    assert np.mean(np.sum(outputs[:, 3:] ** 2, axis=1)) == pytest.approx(0.09)


def test_full_whitening_evens_out_the_identity_part():
    vectors, codes = clustered(5, n=200)
    stretched = vectors * [1, 2, 3, 4, 5, 6]
    settings_ = RidgeSettings(whitening=1.0, balance=0.0)
    lower = fit_ridge(stretched, classes_of(codes.tolist()), settings_).weight[3:]
    spread = np.linalg.eigvalsh(np.cov(stretched @ lower.T, rowvar=False))
    assert spread[-1] / spread[0] < 1.2
    plain = fit_ridge(stretched, classes_of(codes.tolist()), RidgeSettings(whitening=0.0)).weight[3:]
    np.testing.assert_allclose(plain, plain[0, 0] * np.eye(6), atol=1e-12)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("penalties", ()),
        ("penalties", (1.0, 0.0)),
        ("penalties", (math.nan,)),
        ("penalties", (math.inf,)),
        ("damping", -0.1),
        ("damping", math.inf),
        ("damping", math.nan),
        ("balance", 1.1),
        ("whitening", -0.1),
        ("unlabelled_weight", 2.0),
    ],
)
def test_ridge_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ConfigurationError, match=f"{setting}: expected"):
        RidgeSettings(**{setting: value})


# neighbours


@pytest.mark.parametrize("seed", range(3))
def test_guesses_are_those_of_kernel_ridge_regression(seed):
    vectors, codes = clustered(seed, n=60, noise=0.8)
    membership = classes_of(codes[:25].tolist()).membership
    found = propagate(vectors[:25], membership, vectors[25:])
    np.testing.assert_array_equal(found, guessed_memberships(vectors[:25], membership, vectors[25:]))


def test_guesses_do_not_depend_on_blocks_or_order(monkeypatch):
    vectors, codes = clustered(6, n=60)
    membership = classes_of(codes[:30].tolist()).membership
    found = propagate(vectors[:30], membership, vectors[30:])
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    np.testing.assert_array_equal(propagate(vectors[:30], membership, vectors[30:]), found)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_array_equal(propagate(vectors[order], membership[order], vectors[30:]), found)


def test_a_few_landmarks_are_enough_for_clear_clusters(monkeypatch):
    monkeypatch.setattr(neighbours, "LANDMARKS", 24)
    vectors, codes = clustered(0, n=200, noise=0.2)
    guesses = propagate(vectors[:100], classes_of(codes[:100].tolist()).membership, vectors[100:])
    assert np.mean(guesses.argmax(axis=1) == codes[100:]) == 1.0


def test_equal_rows_can_be_guessed_from():
    membership = np.repeat(np.eye(2), [7, 3], axis=0)
    guesses = propagate(np.tile([1.0, 0.0], (10, 1)), membership, np.array([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(guesses, [[1, 0], [1, 0]])


# fisher


@pytest.mark.parametrize("labels", ["balanced", "uneven", "gaps"])
@pytest.mark.parametrize("shrinkage", [0.1, 2.0])
def test_fisher_is_the_generalised_eigenproblem(labels, shrinkage):
    vectors, codes = clustered(8, n=60, classes=4)
    codes = np.arange(60) % 4 if labels == "balanced" else codes
    classes = classes_of(with_gaps(codes, 3) if labels == "gaps" else codes.tolist())
    directions, origin = fit_fisher(vectors, classes, FisherSettings(shrinkage))
    known = vectors[classes.labelled]
    within, between = np.zeros((6, 6)), np.zeros((6, 6))
    for column in classes.membership[classes.labelled].T:
        members = known[column == 1]
        gap = members.mean(axis=0) - known.mean(axis=0)
        within += (members - members.mean(axis=0)).T @ (members - members.mean(axis=0)) / len(known)
        between += len(members) / len(known) * np.outer(gap, gap)
    _, vectors_ = scipy.linalg.eigh(between, within + shrinkage * np.trace(within) / 6 * np.eye(6))
    top = vectors_[:, -3:]
    assert directions.shape == (3, 6)
    np.testing.assert_allclose(directions.T @ directions, top @ top.T, atol=1e-8)
    np.testing.assert_allclose(origin, known.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize(("d", "classes", "kept"), [(6, 2, 1), (6, 4, 3), (2, 5, 2), (1, 2, 1)])
def test_fisher_keeps_no_more_directions_than_there_are(d, classes, kept):
    vectors = np.random.default_rng(0).normal(size=(50, d))
    directions, _ = fit_fisher(vectors, classes_of((np.arange(50) % classes).tolist()), FisherSettings())
    assert directions.shape == (kept, d) and directions.flags.c_contiguous


def test_class_means_on_a_line_need_one_direction():
    codes = np.arange(30) % 3
    rng = np.random.default_rng(0)
    vectors = np.c_[codes.astype(float), np.repeat(rng.normal(size=10), 3), np.repeat(rng.normal(size=10), 3)]
    directions, _ = fit_fisher(vectors, classes_of(codes.tolist()), FisherSettings())
    assert directions.shape == (1, 3) and abs(directions[0, 0]) > 100 * abs(directions[0, 1:]).max()


@pytest.mark.parametrize("shrinkage", [0.0, -1.0, math.nan, math.inf])
def test_fisher_settings_out_of_range_are_named(shrinkage):
    with pytest.raises(ConfigurationError, match="shrinkage: expected"):
        FisherSettings(shrinkage)


# contrastive


def literal_contrastive(z, labels, margin):
    total = 0.0
    for a, la in zip(z, labels, strict=True):
        for b, lb in zip(z, labels, strict=True):
            distance = math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
            total += distance**2 if la == lb else max(0.0, margin - distance) ** 2
    return total / len(z) ** 2


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 4), st.sampled_from([0.5, 3.0, 10.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_contrastive_loss_is_the_literal_loop(seed, n, d, margin, repeated):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) * rng.choice([0.1, 1.0, 5.0])
    if repeated:
        z = z[rng.integers(0, max(1, n // 3), n)]
    labels = rng.integers(0, 3, n)
    point = torch.tensor(z, requires_grad=True)
    loss = contrastive_loss(point, torch.tensor(labels), margin)
    loss.backward()
    assert loss.item() == pytest.approx(literal_contrastive(z.tolist(), labels.tolist(), margin), rel=1e-9, abs=1e-12)
    assert torch.isfinite(point.grad).all()


def test_contrastive_gradient_is_numeric():
    z = torch.tensor(np.random.default_rng(0).normal(size=(7, 3)), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda rows: contrastive_loss(rows, labels, 2.5), [z])


def test_a_batch_at_scale_loses_nothing_on_its_diagonal():
    z = torch.tensor(np.random.default_rng(0).normal(size=(64, 32)) * 1000, dtype=torch.float32)
    assert contrastive_loss(z[:1].expand(64, 32), torch.zeros(64), 10.0) == 0.0
    assert contrastive_loss(z, torch.arange(64), 1.0) == 0.0


def wild(**changes):
    """A learning rate so large that the last epoch is worse than an earlier one."""
    options = {"dimension": 4, "hidden": 8, "learning_rate": 0.5, "epochs": 40, "patience": 4, **changes}
    return ContrastiveSettings(reconstruction_weight=0.0, **options)


def encoded(layers, vectors):
    for number, (weight, bias) in enumerate(layers):
        vectors = np.maximum(vectors, 0.0) if number else vectors
        vectors = vectors @ weight.T + bias
    return vectors


@pytest.mark.parametrize("two_layers", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_epoch_is_really_restored(two_layers, seed):
    vectors, codes = clustered(seed, n=80)
    classes = classes_of(codes.tolist())
    found = fit_contrastive(vectors, classes, wild(), two_layers=two_layers, seed=seed)
    losses = found.validation_loss
    assert found.best_epoch == int(np.argmin(losses))
    assert losses[-1] > losses[found.best_epoch] + 1e-3
    assert len(losses) == len(found.training_loss) == found.best_epoch + 1 + 4
    _, held_out = contrastive._stratified_split(classes.codes, 0.2, np.random.default_rng(seed))
    again = literal_contrastive(encoded(found.layers, vectors[held_out]).tolist(), codes[held_out].tolist(), 10.0)
    assert again == pytest.approx(losses[found.best_epoch], rel=1e-4)
    stopped = fit_contrastive(
        vectors, classes, wild(epochs=found.best_epoch + 1), two_layers=two_layers, seed=seed
    ).layers
    for (weight, bias), (other, other_bias) in zip(found.layers, stopped, strict=True):
        np.testing.assert_array_equal(weight, other)
        np.testing.assert_array_equal(bias, other_bias)


def test_the_best_epoch_is_restored_when_the_epochs_run_out():
    vectors, codes = clustered(0, n=80)
    classes = classes_of(codes.tolist())
    options = {"epochs": 30, "patience": 100, "learning_rate": 5.0}
    found = fit_contrastive(vectors, classes, wild(**options), two_layers=False, seed=0)
    assert found.best_epoch < len(found.validation_loss) - 1 == 29
    options["epochs"] = found.best_epoch + 1
    best = fit_contrastive(vectors, classes, wild(**options), two_layers=False, seed=0)
    np.testing.assert_array_equal(found.layers[0][0], best.layers[0][0])


@pytest.mark.parametrize("two_layers", [False, True])
def test_training_is_fixed_by_its_seed_and_touches_no_other(two_layers):
    vectors, codes = clustered()
    classes = classes_of(codes.tolist())
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first = fit_contrastive(vectors, classes, QUICK, two_layers=two_layers, seed=3)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1][1], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(2)
    again = fit_contrastive(vectors, classes, QUICK, two_layers=two_layers, seed=3)
    other = fit_contrastive(vectors, classes, QUICK, two_layers=two_layers, seed=4)
    assert first.validation_loss == again.validation_loss != other.validation_loss
    for (weight, bias), (weight2, bias2) in zip(first.layers, again.layers, strict=True):
        np.testing.assert_array_equal(weight, weight2)
        np.testing.assert_array_equal(bias, bias2)


def test_training_seeds_no_accelerator(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    vectors, codes = clustered()
    fit_contrastive(vectors, classes_of(codes.tolist()), QUICK, two_layers=False, seed=3)
    assert not seeded


def test_training_brings_classes_together():
    vectors, codes = clustered(2, n=120)
    options = ContrastiveSettings(dimension=4, learning_rate=0.03, epochs=40, margin=3.0)
    same = codes[:, None] == codes

    def ratio(points):
        distances = np.linalg.norm(points[:, None] - points, axis=2)
        return distances[same].mean() / distances[~same].mean()

    for two_layers in (False, True):
        found = fit_contrastive(vectors, classes_of(codes.tolist()), options, two_layers=two_layers, seed=0)
        assert found.validation_loss[found.best_epoch] < 0.7 * found.validation_loss[0]
        assert ratio(encoded(found.layers, vectors)) < 0.7 * ratio(vectors)


@pytest.mark.parametrize(
    ("labels", "held"), [(["a"] * 10 + ["b"] * 5 + ["c"], [2, 1, 0]), (["a", "b"], None), (["a", None, "b"], None)]
)
def test_every_class_is_split_and_a_class_of_one_stays_in_training(labels, held):
    codes = classes_of(labels).codes
    train, held_out = contrastive._stratified_split(codes, 0.2, np.random.default_rng(0))
    assert sorted([*train, *held_out]) == np.flatnonzero(codes >= 0).tolist()
    assert len(held_out) == (1 if held is None else sum(held)) and len(train)
    if held is not None:
        assert np.bincount(codes[held_out], minlength=3).tolist() == held


def test_decoding_counts_only_where_it_is_asked_for():
    vectors, codes = clustered(n=30)
    losses = [
        fit_contrastive(
            5 * vectors,
            classes_of(codes.tolist()),
            ContrastiveSettings(contrastive_weight=0.0, reconstruction_weight=weight, epochs=30, learning_rate=0.05),
            two_layers=False,
            seed=0,
        ).training_loss
        for weight in (0.0, 1.0)
    ]
    assert set(losses[0]) == {0.0}
    assert losses[1][-1] < 0.1 * losses[1][0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dimension", 0),
        ("hidden", 0),
        ("batch_size", 0),
        ("epochs", 0),
        ("patience", 0),
        ("margin", 0.0),
        ("learning_rate", math.nan),
        ("validation_share", 0.0),
        ("validation_share", 1.0),
        ("input_scale", 0.0),
    ],
)
def test_contrastive_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ConfigurationError, match=f"{setting}: expected"):
        ContrastiveSettings(**{setting: value})


# searching


def test_search_matrix_is_ridge_regression_to_unit_outputs():
    rng = np.random.default_rng(0)
    vectors, outputs = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
    outputs[4] = 0.0
    unit = np.array([row / np.linalg.norm(row) if row.any() else row for row in outputs])
    expected = weighted_ridge(vectors, unit, np.ones(30), PENALTY)[:-1]
    np.testing.assert_allclose(fit_search_matrix(vectors, outputs), expected, atol=1e-10)
    lengths = rng.uniform(0.1, 9.0, size=(30, 1))
    np.testing.assert_allclose(fit_search_matrix(vectors, lengths * outputs), expected, atol=1e-10)


# fitting


@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize("size", [6, 7, 100])
@pytest.mark.parametrize("n", [45, 4])
def test_as_many_outputs_as_inputs_keep_every_cosine(method, size, n):
    vectors, codes = clustered(9)
    classes = classes_of([*codes[: n - 1].tolist(), "other"])
    new = np.random.default_rng(1).normal(size=(50, 6))
    options = ContrastiveSettings(epochs=3, dimension=9) if method == "contrastive" else None
    full = fit(vectors[:n], classes, method, settings=options)
    # The bias of the trained map may point where no input can: one direction more.
    size = max(size, 7) if method == "contrastive" else size
    kept = fit(vectors[:n], classes, method, settings=options, output_dimension=size)
    assert len(kept.layers[0][0]) <= size
    new /= np.linalg.norm(new, axis=1, keepdims=True)
    np.testing.assert_allclose(
        cosines(encoded(kept.layers, kept.scale * new)), cosines(encoded(full.layers, full.scale * new)), atol=1e-5
    )


@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_fewer_outputs_keep_the_most_they_can(method, size):
    vectors, codes = clustered(9, classes=5)
    classes = classes_of(codes.tolist())
    full, kept = fit(vectors, classes, method), fit(vectors, classes, method, output_dimension=size)
    outputs, fewer = (encoded(fitted.layers, fitted.scale * vectors) for fitted in (full, kept))
    assert fewer.shape == (45, size) and kept.search.shape == (6, size)
    assert np.sum(fewer**2) == pytest.approx(np.sum(np.linalg.svd(outputs, compute_uv=False)[:size] ** 2))


@pytest.mark.parametrize(
    ("method", "changes", "error", "words"),
    [
        ("svm", {}, ConfigurationError, "one of ridge, fisher, contrastive, contrastive-mlp, found 'svm'"),
        ("ridge", {"settings": FisherSettings()}, ConfigurationError, "expected RidgeSettings .* found FisherSettings"),
        ("fisher", {"settings": RidgeSettings()}, ConfigurationError, "FisherSettings"),
        ("contrastive", {"settings": RidgeSettings()}, ConfigurationError, "ContrastiveSettings"),
        ("ridge", {"output_dimension": 0}, ConfigurationError, "output_dimension: expected 1 or more"),
        ("contrastive-mlp", {"output_dimension": 3}, ConfigurationError, "ContrastiveSettings.dimension"),
    ],
)
def test_what_does_not_go_together_is_named(method, changes, error, words):
    vectors, codes = clustered()
    with pytest.raises(error, match=words):
        fit(vectors, classes_of(codes.tolist()), method, **changes)


@pytest.mark.parametrize(("method", "size"), [("contrastive", 0), ("contrastive-mlp", 3)])
def test_a_wrong_output_dimension_is_named_before_training(method, size, monkeypatch):
    monkeypatch.setattr(fitting, "fit_contrastive", lambda *_, **__: pytest.fail("trained first"))
    vectors, codes = clustered()
    with pytest.raises(ConfigurationError, match="output_dimension"):
        fit(vectors, classes_of(codes.tolist()), method, output_dimension=size)


def test_numbers_of_vectors_and_labels_are_named():
    vectors, codes = clustered()
    with pytest.raises(DimensionMismatchError, match="labels: expected 44, one per vector, found 45"):
        fit(vectors[:44], classes_of(codes.tolist()), "ridge")
    vectors[[3, 5], 2] = np.nan, np.inf
    with pytest.raises(ConfigurationError, match="2 rows, first 3"):
        fit(vectors, classes_of(codes.tolist()), "ridge")


@pytest.mark.parametrize("method", ["ridge", "fisher"])
@pytest.mark.parametrize("labels", ["all", "gaps", "soft"])
def test_the_order_of_rows_does_not_matter(method, labels):
    vectors, codes = clustered(10)
    classes = {
        "all": classes_of(codes.tolist()),
        "gaps": classes_of(with_gaps(codes, 3)),
        "soft": soft_classes(0, 45, 3),
    }[labels]
    order = np.random.default_rng(0).permutation(45)
    plain, shuffled = fit(vectors, classes, method), fit(vectors[order], classes.rows(order), method)
    for fitted in (plain, shuffled):
        # The sign of an eigenvector is free.
        (weight, bias), search = fitted.layers[0], fitted.search
        fitted.losses["all"] = weight.T @ weight, weight.T @ bias, search @ weight
    for a, b in zip(plain.losses["all"], shuffled.losses["all"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("method", ["ridge", "fisher"])
def test_a_rotated_store_gives_the_same_geometry(method):
    vectors, codes = clustered(11)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    classes = classes_of(with_gaps(codes, 4))
    plain, turned = fit(vectors, classes, method), fit(vectors @ turn, classes, method)
    np.testing.assert_allclose(
        cosines(encoded(turned.layers, vectors @ turn)), cosines(encoded(plain.layers, vectors)), atol=1e-7
    )


@pytest.mark.parametrize("method", ["ridge", "fisher"])
def test_names_of_classes_do_not_matter(method):
    vectors, codes = clustered(12)
    plain = fit(vectors, classes_of(codes.tolist()), method)
    renamed = fit(vectors, classes_of([["z", "m", "a"][code] for code in codes]), method)
    np.testing.assert_allclose(
        cosines(encoded(renamed.layers, vectors)), cosines(encoded(plain.layers, vectors)), atol=1e-9
    )


@pytest.mark.parametrize("method", ["ridge", "fisher", "contrastive", "contrastive-mlp"])
def test_a_fit_says_what_it_found(method):
    vectors, codes = clustered()
    fitted = fit(vectors, classes_of(codes.tolist()), method)
    assert (fitted.search is None) == (method == "contrastive-mlp")
    assert fitted.scale == (math.sqrt(6) / 2 if method.startswith("contrastive") else 1.0)
    expected = {"ridge": {"penalty", "leave_one_out_error"}, "fisher": set()}
    assert set(fitted.losses) == expected.get(method, {"training", "validation", "best_epoch"})
    assert [w.shape for w, _ in fitted.layers] == {
        "ridge": [(9, 6)],
        "fisher": [(2, 6)],
        "contrastive": [(5, 6)],
        "contrastive-mlp": [(7, 6), (5, 7)],
    }[method]


def test_fitting_writes_to_nothing():
    vectors, codes = clustered()
    membership = classes_of(with_gaps(codes, 4)).membership
    classes = Classes(("a", "b", "c"), membership)
    for array in (vectors, membership):
        array.setflags(write=False)
    for method in ("ridge", "fisher", "contrastive", "contrastive-mlp"):
        fit(vectors, classes, method)


# clusters


def test_clear_clusters_are_found_whatever_the_order():
    vectors, codes = clustered(0, n=60, noise=0.05)
    found = cluster(vectors.astype(np.float32), 3, seed=0)
    pairs = set(zip(codes.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 3 and {b for _, b in pairs} == {0, 1, 2}
    np.testing.assert_array_equal(cluster(vectors.astype(np.float32), 3, seed=0), found)


@pytest.mark.parametrize(("n", "distinct", "asked"), [(10, 3, 8), (4, 4, 50), (6, 1, 3)])
def test_clusters_are_numbered_without_gaps(n, distinct, asked):
    rows = np.eye(8, dtype=np.float32)[np.arange(n) % distinct]
    found = cluster(rows, asked, seed=0)
    assert sorted(set(found.tolist())) == list(range(distinct))
    assert len(set(zip(found.tolist(), (np.arange(n) % distinct).tolist(), strict=True))) == distinct


@pytest.mark.parametrize(
    ("above", "kept"),
    [(None, ["late parcel", "late delivery", "refund"]), (0.9, ["late parcel", "refund"]), (0.999, None)],
)
def test_near_duplicates_go_into_the_larger_group(above, kept):
    names = ["refund", "late delivery", "late parcel", "  Late   PARCEL "]
    vectors = np.array([[1, 0], [0.1, 0.995], [0, 1], [0, 1]], dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = merge_near_duplicates(names, [1, 2, 5, 3], vectors, above)
    assert found == (kept or ["late parcel", "late delivery", "refund"])
