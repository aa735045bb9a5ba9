"""What callers hand in -> checked float64 rows of unit length. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError
from llama_index_instruct.rows import as_numbers, unit_rows

FloatArray = npt.NDArray[np.float64]

# Below this difference between the most and the least relevant passage a teacher has said nothing.
MIN_SPREAD = 0.1


def unit_query_of(query: npt.ArrayLike) -> FloatArray:
    """Return the query, shape (d,), of unit norm.

    Raises:
        DimensionMismatchError: If it is no vector.
        ConfigurationError: If it is zero or not finite.
    """
    vector = as_numbers(query, "query").astype(np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise DimensionMismatchError(f"query: expected shape (d,), found {vector.shape}")
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise ConfigurationError(f"query: expected finite numbers and a norm above 0, found norm {norm}")
    return np.asarray(vector / norm)


def unit_rows_of(query: FloatArray, rows: npt.ArrayLike, name: str) -> FloatArray:
    """Return the rows (m, d) that have a direction, of unit norm; the name is for the message.

    Raises:
        DimensionMismatchError: If they do not fit the query.
    """
    units = _units(_rows_like(query, rows, name, "m"))
    keep = _have_a_direction(units)
    return units if keep.all() else units[keep]


def usable_judgements(
    query: FloatArray, passages: npt.ArrayLike, relevance: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Return the judged passages that have a direction, unit rows (k, d), their relevance (k,), and which of all they are.

    Raises:
        DimensionMismatchError: If the shapes do not fit.
        ConfigurationError: If relevance is outside [0, 1].
    """
    rows = _rows_like(query, passages, "passages", "k")
    targets = as_numbers(relevance, "relevance").astype(np.float64)
    if targets.shape != rows.shape[:1]:
        raise DimensionMismatchError(f"relevance: expected shape ({len(rows)},), found {targets.shape}")
    if np.any((targets < 0.0) | (targets > 1.0)):
        raise ConfigurationError(
            f"relevance: expected values in [0, 1] or NaN, found {np.nanmin(targets)} to {np.nanmax(targets)}"
        )
    units = _units(rows)
    keep = _have_a_direction(units) & ~np.isnan(targets)
    return units[keep], targets[keep], keep


def why_uninformative(relevance: FloatArray) -> str:
    """Return why judgements (k,) cannot move a query; empty if they can."""
    if relevance.size < 2:
        return f"only {relevance.size} usable judgements"
    spread = float(relevance.max() - relevance.min())
    if spread < MIN_SPREAD:
        level = "relevant" if relevance.mean() >= 0.5 else "irrelevant"
        return f"the teacher made no difference: all {relevance.size} passages judged {level}"
    return ""


def _rows_like(query: FloatArray, rows: npt.ArrayLike, name: str, count: str) -> FloatArray:
    given = as_numbers(rows, name).astype(np.float64, copy=False)
    if given.size == 0 and given.ndim < 2:
        return np.zeros((0, query.size))
    if given.ndim != 2 or given.shape[1] != query.size:
        raise DimensionMismatchError(
            f"{name}: expected shape ({count}, {query.size}) like the query, found {given.shape}"
        )
    return given


def _units(rows: FloatArray) -> FloatArray:
    # Copies of all rows would cost as much as the solving; candidates of a search are of unit length already.
    norms = np.einsum("nd,nd->n", rows, rows)
    return rows if np.abs(norms - 1.0).max(initial=0.0) < 1e-12 else unit_rows(rows)


def _have_a_direction(units: FloatArray) -> npt.NDArray[np.bool_]:
    # Of unit length, unless the row was zero, NaN or infinite.
    return np.asarray(np.abs(np.einsum("nd,nd->n", units, units) - 1.0) < 1e-6)
