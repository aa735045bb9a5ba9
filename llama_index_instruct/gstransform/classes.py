"""Labels as users have them -> class memberships, as the fitters read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError, DimensionMismatchError

FloatArray = npt.NDArray[np.float64]
Label = str | int | None


@dataclass(frozen=True, eq=False)
class Classes:
    """Who belongs to which class.

    Attributes:
        names: C names, sorted; only those that occur.
        membership: Shape (n, C), float64, rows sum to 1, or to 0 where a row has no label.
    """

    names: tuple[str, ...]
    membership: FloatArray

    @property
    def counts(self) -> FloatArray:
        """Return the (soft) number of rows per class, shape (C,)."""
        return np.asarray(self.membership.sum(axis=0))

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Return which rows have a label, shape (n,)."""
        return np.asarray(self.membership.sum(axis=1) > 0)

    @property
    def codes(self) -> npt.NDArray[np.intp]:
        """Return the likeliest class per row, shape (n,); -1 where there is no label."""
        return np.where(self.labelled, self.membership.argmax(axis=1), -1)

    def rows(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Classes:
        """Return the same classes for some of the rows."""
        return Classes(self.names, self.membership[chosen])


def classes_of(labels: Sequence[Label] | npt.NDArray[np.generic], names: Sequence[str] | None = None) -> Classes:
    """Return the classes behind labels.

    Args:
        labels: n of them, strings or integers, ``None`` = no label; or soft labels, shape (n, C), non-negative, of which each
            row is scaled to sum 1 and a row of zeros or NaN means no label.
        names: C names for the columns of soft labels; default "0" to "C-1".

    Raises:
        ConfigurationError: If fewer than two classes occur, or soft labels are negative or infinite.
        DimensionMismatchError: If ``names`` and the columns differ in number.

    Example:
        >>> classes_of(["b", None, "a"]).membership.tolist()
        [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """
    if _is_soft(labels):
        return _at_least_two(_soft(np.asarray(labels, dtype=np.float64), names))
    if names is not None:
        raise ConfigurationError(
            "label_names: only soft labels of shape (n, C) take names; hard labels are names themselves"
        )
    written = [None if _absent(label) else str(label) for label in labels]
    known = sorted({name for name in written if name is not None})
    column = {name: place for place, name in enumerate(known)}
    membership = np.zeros((len(written), len(known)))
    for row, name in enumerate(written):
        if name is not None:
            membership[row, column[name]] = 1.0
    return _at_least_two(Classes(tuple(known), membership))


def _is_soft(labels: Sequence[Label] | npt.NDArray[np.generic]) -> bool:
    if isinstance(labels, np.ndarray):
        return labels.ndim == 2
    return len(labels) > 0 and isinstance(labels[0], (list, tuple, np.ndarray))


def _absent(label: object) -> bool:
    return label is None or (isinstance(label, (float, np.floating)) and bool(np.isnan(label)))


def _soft(labels: npt.NDArray[np.generic], names: Sequence[str] | None) -> Classes:
    membership = np.nan_to_num(np.asarray(labels, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if not np.isfinite(membership).all() or (membership < 0).any():
        raise ConfigurationError("labels: expected soft labels of 0 or more, found negative or infinite ones")
    known = tuple(names) if names is not None else tuple(str(column) for column in range(membership.shape[1]))
    if len(known) != membership.shape[1]:
        raise DimensionMismatchError(
            f"label_names: expected {membership.shape[1]}, one per column of labels, found {len(known)}"
        )
    total = membership.sum(axis=1, keepdims=True)
    membership = np.divide(membership, total, out=np.zeros_like(membership), where=total > 0)
    used = membership.sum(axis=0) > 0
    return Classes(tuple(name for name, keep in zip(known, used, strict=True) if keep), membership[:, used])


def _at_least_two(classes: Classes) -> Classes:
    if len(classes.names) < 2:
        raise ConfigurationError(f"labels: expected two classes or more, found {list(classes.names)}")
    return classes
