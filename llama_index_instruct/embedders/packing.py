"""Batches by length under a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def packed(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield the positions of rows of like length, longest first, so that no padded batch holds more tokens than ``budget``.

    A row longer than the budget is a batch of its own. Longest first: memory runs out at once, or not at all.

    Args:
        lengths: Tokens of every row.
        budget: Tokens of a batch, padding included.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for i in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
