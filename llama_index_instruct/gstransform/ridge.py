"""``method="ridge"``: class directions by ridge regression, stacked over a damped copy of the vector itself.

The upper part of the map predicts class membership, so that texts of one class come together; the lower part keeps the
neighbourhoods inside a class, and what no class explains. Everything is closed form. The formulas are this project's own; the
method it replaces is the trained encoder of GSTransform (arXiv 2505.24754, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.gstransform.classes import Classes
from llama_index_instruct.gstransform.neighbours import propagate

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RidgeSettings:
    """Settings of ``method="ridge"``; the defaults were chosen once, over all sets together.

    Attributes:
        penalties: Ridge penalties to choose from, in units of one labelled text of unit norm; the one with the smallest
            leave-one-out error on the labelled rows is taken. One value = that value.
        damping: Root mean square of the identity part; that of the class part is 1.
        balance: Power of the inverse class frequency in the weight of a row: 0 = all rows alike, 1 = all classes alike.
        whitening: How far the identity part is whitened: 0 = as it is, 1 = all its directions have the same variance.
        unlabelled_weight: Weight of a row without a label, which takes part with the class its labelled neighbours suggest;
            0 = such rows are left out.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    penalties: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    damping: float = 0.5
    balance: float = 0.25
    whitening: float = 0.5
    unlabelled_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.penalties or not all(np.isfinite(p) and p > 0 for p in self.penalties):
            raise ConfigurationError(f"penalties: expected positive numbers, at least one, found {self.penalties}")
        for name, low, high in (
            ("damping", 0.0, np.inf),
            ("balance", 0.0, 1.0),
            ("whitening", 0.0, 1.0),
            ("unlabelled_weight", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high or not np.isfinite(value):
                raise ConfigurationError(f"{name}: expected {low} to {high}, found {value}")


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """What the fit found.

    Attributes:
        weight: Shape (C + d, d).
        origin: The point that is mapped to zero, shape (d,): the mean of the class means.
        penalty: The penalty taken.
        error: Its leave-one-out error, as a share of the variance of the targets.
    """

    weight: FloatArray
    origin: FloatArray
    penalty: float
    error: float


def fit_ridge(vectors: FloatArray, classes: Classes, settings: RidgeSettings) -> RidgeFit:
    """Return the stacked map for vectors (n, d) of which some have a class.

    Args:
        vectors: Shape (n, d), float64.
        classes: n rows; those without a label serve as unlabelled vectors.
        settings: See ``RidgeSettings``.
    """
    labelled = classes.labelled
    known, known_classes = vectors[labelled], classes.rows(labelled)
    problem = _Problem.of(known, known_classes, np.ones(len(known)), settings)
    errors = problem.leave_one_out_error(settings.penalties)
    best = int(np.argmin(errors))
    penalty = float(settings.penalties[best])
    if settings.unlabelled_weight and not labelled.all():
        others = vectors[~labelled]
        guessed = propagate(known, known_classes.membership, others)
        trust = np.r_[np.ones(len(known)), np.full(len(others), settings.unlabelled_weight)]
        everything = Classes(classes.names, np.vstack([known_classes.membership, guessed]))
        problem = _Problem.of(np.vstack([known, others]), everything, trust, settings)
    upper = problem.scaled(problem.directions(penalty))
    lower = problem.scaled(problem.flattened(settings.whitening))
    weight = np.vstack([upper, settings.damping * lower])
    return RidgeFit(weight, _mean_of_class_means(known, known_classes), penalty, errors[best])


@dataclass(frozen=True, eq=False)
class _Problem:
    """Weighted ridge regression from centred vectors to class membership, in the eigenbasis of their scatter.

    Attributes:
        rows: Centred vectors times the roots of their weights, shape (n, d).
        weights: Shape (n,); a labelled row weighs 1 on average.
        targets: Shape (n, C): membership over the root of weighted class frequency, centred.
        variances: Eigenvalues of the weighted scatter, shape (d,).
        basis: Its eigenvectors as columns, shape (d, d).
    """

    rows: FloatArray
    weights: FloatArray
    targets: FloatArray
    variances: FloatArray
    basis: FloatArray

    @classmethod
    def of(cls, vectors: FloatArray, classes: Classes, trust: FloatArray, settings: RidgeSettings) -> _Problem:
        total = trust.sum()
        frequency = trust @ classes.membership / total
        weights = trust * (classes.membership @ frequency**-settings.balance)
        weights *= total / weights.sum()
        rows = vectors - weights @ vectors / total
        rows *= np.sqrt(weights)[:, None]
        # Dividing by the root of the (weighted) frequency makes rare classes as far apart as common ones.
        targets = classes.membership / np.sqrt(weights @ classes.membership / total)
        targets = targets - weights @ targets / total
        variances, basis = np.linalg.eigh(rows.T @ rows)
        return cls(rows, weights, targets, np.maximum(variances, 0.0), basis)

    def directions(self, penalty: float) -> FloatArray:
        """Return the regression's coefficients, shape (C, d)."""
        loadings = self.basis.T @ (self.rows.T @ (np.sqrt(self.weights)[:, None] * self.targets))
        return np.asarray((self.basis @ (loadings / (self.variances + penalty)[:, None])).T)

    def flattened(self, whitening: float) -> FloatArray:
        """Return the identity with its directions' variances raised to the power of 1 - whitening, shape (d, d)."""
        mean = self.variances.mean()
        if mean <= 0.0:
            return np.eye(len(self.variances))
        # A floor, or directions without variance would be blown up.
        return np.asarray((self.basis * (self.variances / mean + 1e-3) ** (-whitening / 2)) @ self.basis.T)

    def scaled(self, weight: FloatArray) -> FloatArray:
        """Return a map scaled so that its (weighted) outputs have mean square norm 1."""
        size = float(np.sqrt((((weight @ self.basis) ** 2) @ self.variances).sum() / self.weights.sum()))
        return weight / size if size > 0.0 else weight

    def leave_one_out_error(self, penalties: Sequence[float]) -> list[float]:
        """Return, per penalty, the weighted squared error of every row predicted without itself, over that of no prediction.

        Leaving out row i changes its residual by the factor 1 / (1 - h_i), h_i being its leverage (the mean included).
        """
        root = np.sqrt(self.weights)[:, None]
        scores = self.rows @ self.basis
        squares = scores**2
        targets = root * self.targets
        loadings = scores.T @ targets
        total = max(float((targets**2).sum()), 1e-12)
        errors = []
        for penalty in penalties:
            shrink = 1.0 / (self.variances + penalty)
            leverage = squares @ shrink + self.weights / self.weights.sum()
            residual = targets - scores @ (loadings * shrink[:, None])
            left_out = residual / np.maximum(1.0 - leverage, 1e-6)[:, None]
            errors.append(float((left_out**2).sum()) / total)
        return errors


def _mean_of_class_means(vectors: FloatArray, classes: Classes) -> FloatArray:
    # Cosines depend on where zero lies: between the classes, and not inside the largest one.
    return np.asarray(((classes.membership / classes.counts).T @ vectors).mean(axis=0))
