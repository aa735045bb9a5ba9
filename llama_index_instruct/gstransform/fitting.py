"""Vectors + labels -> the layers of a transform; pure numerics, arrays in and out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError
from llama_index_instruct.gstransform.classes import Classes
from llama_index_instruct.gstransform.contrastive import ContrastiveSettings, Layer, fit_contrastive
from llama_index_instruct.gstransform.fisher import FisherSettings, fit_fisher
from llama_index_instruct.gstransform.ridge import RidgeSettings, fit_ridge
from llama_index_instruct.gstransform.searching import fit_search_matrix

FloatArray = npt.NDArray[np.float64]
Method = Literal["ridge", "fisher", "contrastive", "contrastive-mlp"]
Settings = RidgeSettings | FisherSettings | ContrastiveSettings

# The search matrix has d x h coefficients and is heavily smoothed: more rows cost time and change nothing.
SEARCH_ROWS = 2048
SETTINGS_OF: dict[str, type[RidgeSettings] | type[FisherSettings] | type[ContrastiveSettings]] = {
    "ridge": RidgeSettings,
    "fisher": FisherSettings,
    "contrastive": ContrastiveSettings,
    "contrastive-mlp": ContrastiveSettings,
}


@dataclass(frozen=True, eq=False)
class FittedMap:
    """The result of a fit.

    Attributes:
        layers: Weight (out, in) and bias (out,) of each layer; more than one = a ReLU between them.
        search: Search matrix, shape (d, h), or None for two layers.
        scale: Factor on the (normalised) input.
        losses: What the fit reports about itself.
    """

    layers: tuple[Layer, ...]
    search: FloatArray | None
    scale: float = 1.0
    losses: dict[str, Any] = field(default_factory=dict)


def fit_map(
    vectors: FloatArray,
    classes: Classes,
    *,
    method: Method,
    settings: Settings | None,
    output_dimension: int | None,
    seed: int,
) -> FittedMap:
    """Fit a map on vectors (n, d), already normalised if they are to be.

    Args:
        vectors: Shape (n, d), float64, finite.
        classes: n rows; rows without a label are unlabelled vectors, which only ``"ridge"`` uses.
        method: See ``GSTransform.from_labels``.
        settings: Of that method; None = its defaults.
        output_dimension: Largest h; see ``GSTransform.from_labels``.
        seed: Of whatever is random.

    Raises:
        ConfigurationError: If method and settings do not go together.
        DimensionMismatchError: If vectors and labels differ in number.
    """
    _check(vectors, classes, method, settings, output_dimension)
    scale = 1.0
    losses: dict[str, Any] = {}
    if method == "ridge":
        chosen = settings if isinstance(settings, RidgeSettings) else RidgeSettings()
        ridge = fit_ridge(vectors, classes, chosen)
        layers: tuple[Layer, ...] = ((ridge.weight, -ridge.weight @ ridge.origin),)
        losses = {"penalty": ridge.penalty, "leave_one_out_error": ridge.error}
    elif method == "fisher":
        weight, mean = fit_fisher(
            vectors, classes, settings if isinstance(settings, FisherSettings) else FisherSettings()
        )
        layers = ((weight, -weight @ mean),)
    else:
        options = settings if isinstance(settings, ContrastiveSettings) else ContrastiveSettings()
        scale = options.scale(vectors.shape[1])
        trained = fit_contrastive(scale * vectors, classes, options, two_layers=method == "contrastive-mlp", seed=seed)
        layers = trained.layers
        losses = {
            "training": list(trained.training_loss),
            "validation": list(trained.validation_loss),
            "best_epoch": trained.best_epoch,
        }
    if output_dimension is not None:
        layers = _compressed(layers, scale * vectors, output_dimension)
    if len(layers) > 1:
        return FittedMap(layers, None, scale, losses)
    weight, bias = layers[0]
    some = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), SEARCH_ROWS)).astype(np.intp)]
    return FittedMap(layers, fit_search_matrix(some, scale * some @ weight.T + bias), scale, losses)


def _check(
    vectors: FloatArray, classes: Classes, method: str, settings: Settings | None, output_dimension: int | None
) -> None:
    if method not in get_args(Method):
        raise ConfigurationError(f"method: expected one of {', '.join(get_args(Method))}, found {method!r}")
    if settings is not None and not isinstance(settings, SETTINGS_OF[method]):
        raise ConfigurationError(
            f"settings: expected {SETTINGS_OF[method].__name__} for method {method!r}, found {type(settings).__name__}"
        )
    if output_dimension is not None and output_dimension < 1:
        raise ConfigurationError(f"output_dimension: expected 1 or more, found {output_dimension}")
    if output_dimension is not None and method == "contrastive-mlp":
        raise ConfigurationError(
            "output_dimension: expected a linear method; set ContrastiveSettings.dimension instead"
        )
    if classes.labelled.sum() < 2:
        raise ConfigurationError(f"labels: expected two labelled rows or more, found {int(classes.labelled.sum())}")
    if len(vectors) != len(classes.membership):
        raise DimensionMismatchError(
            f"labels: expected {len(vectors)}, one per vector, found {len(classes.membership)}"
        )
    if not np.isfinite(vectors).all():
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise ConfigurationError(
            f"vectors: expected finite numbers, found NaN or infinity in {len(bad)} rows, first {bad[0]}"
        )


def _compressed(layers: tuple[Layer, ...], inputs: FloatArray, size: int) -> tuple[Layer, ...]:
    """Rotate the output so that its first directions carry most, and keep ``size`` of them.

    Outputs span no more directions than the columns of weight and bias: with as many of them no cosine changes at all.
    """
    weight, bias = layers[0]
    columns = np.column_stack([weight, bias])
    spanned, strengths, _ = np.linalg.svd(columns, full_matrices=False)
    spanned = spanned[:, strengths > 1e-10 * strengths[0]]
    if spanned.shape[1] > size:
        # Second moment about zero, not covariance: zero is where cosines are taken from. Directions in which a small sample
        # does not vary at all are told apart by the map itself.
        outputs = (inputs @ weight.T + bias) @ spanned
        moment, of_map = outputs.T @ outputs, spanned.T @ columns @ columns.T @ spanned
        moment += 1e-6 * np.trace(moment) / np.trace(of_map) * of_map
        spanned = spanned @ np.linalg.eigh(moment)[1][:, ::-1][:, :size]
    kept = np.ascontiguousarray(spanned.T)
    return ((kept @ weight, kept @ bias),)
