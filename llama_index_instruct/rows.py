"""Rows of vectors: unit length, cosines, shape checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import DimensionMismatchError

FloatArray = npt.NDArray[np.float32]
# Norms below this may have lost digits, or all of them, to underflow.
TINY = 1e-15


def similarities(query: FloatArray, transformed: FloatArray) -> FloatArray:
    """Return the cosines of a unit query (h,) and transformed vectors (n, h); NaN for rows of NaN, 0 for zeros."""
    norms = np.linalg.norm(transformed.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):  # rows that are not finite score NaN
        scores = transformed @ query
        np.divide(scores, norms, out=scores, where=norms > 0.0)
    return np.asarray(np.clip(scores, -1.0, 1.0), dtype=np.float32)


def unit_rows(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows of unit length; zeros stay zeros, the input is not written to."""
    # Huge vectors overflow when squared: bring each row to a largest entry of 1 first, where that is needed.
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    if not np.isfinite(norms).all() or (norms < TINY).any():
        largest = np.abs(rows).max(axis=1, initial=0.0)
        with np.errstate(invalid="ignore"):
            rows = rows / np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)[:, None]
        norms = np.linalg.norm(rows, axis=1)
    norms = np.where(norms > 0.0, norms, 1.0).astype(rows.dtype)
    with np.errstate(invalid="ignore"):  # infinite rows become NaN
        return np.asarray(rows / norms[:, None])


def as_numbers(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Return values as an array of real numbers, as they are if they are one; the name is for the message.

    Raises:
        DimensionMismatchError: If they are complex, no numbers, or rows of different lengths.
    """
    try:
        found = np.asarray(values)
        found = found if found.dtype.kind in "fiubc" else found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DimensionMismatchError(f"{name}: expected an array of numbers, found {error}") from error
    if found.dtype.kind == "c":
        raise DimensionMismatchError(f"{name}: expected real numbers, found complex ones")
    return found


def as_rows(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Return values as float32 or float64 of shape (n, d), neither of them 0; the name is for the message."""
    rows = as_numbers(values, name)
    rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
    if rows.ndim != 2 or 0 in rows.shape:
        raise DimensionMismatchError(f"{name}: expected shape (n, d) with n and d of 1 or more, found {rows.shape}")
    return rows
