"""Which training examples share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

WINDOW = 50
"""Batches whose groups are sorted by length together: less padding, still random."""


class GroupedBatches:
    """Batches of a fixed size that keep groups together and lengths alike, another order in every epoch.

    Args:
        groups: Positions of the examples of each group.
        lengths: Tokens of every example.
        batch_size: Examples per batch; one batch of an epoch may be smaller.
        seed: Same seed and epoch, same batches.
    """

    def __init__(self, groups: Sequence[Sequence[int]], lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._groups = [list(group) for group in groups]
        self._lengths = [float(np.mean([lengths[i] for i in group])) for group in self._groups]
        self._rows = sum(len(group) for group in self._groups)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the trainer calls this before every epoch, also when it resumes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._rows // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._groups)).tolist()
        rows = [i for window in self._windows(order) for group in window for i in self._groups[group]]
        size = self._batch_size
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        for at in rng.permutation(len(batches)).tolist():
            yield batches[at]

    def _windows(self, order: list[int]) -> Iterator[list[int]]:
        window: list[int] = []
        held = 0
        for group in order:
            window.append(group)
            held += len(self._groups[group])
            if held >= WINDOW * self._batch_size:
                yield sorted(window, key=self._lengths.__getitem__)
                window, held = [], 0
        yield sorted(window, key=self._lengths.__getitem__)
