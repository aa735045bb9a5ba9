"""Batches by length under a token budget, halved where memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llama_index_instruct.embedders.threads import check_wanted


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


def run_packed(lengths: Sequence[int], budget: int, run: Callable[[list[int]], None]) -> None:
    """Run rows in packed batches; a batch that does not fit the memory is halved, down to single rows.

    Args:
        lengths: Tokens of every row.
        budget: Tokens of a batch, padding included.
        run: Gets the positions of a batch's rows.

    Raises:
        torch.OutOfMemoryError: If a single row does not fit.
        NoLongerWantedError: If the caller of the thread has gone, see ``in_thread``.
    """
    for batch in packed(lengths, budget):
        check_wanted()
        _run_halving(batch, run)


def _run_halving(batch: list[int], run: Callable[[list[int]], None]) -> None:
    import torch

    try:
        run(batch)
        return
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside the except clause: the traceback would hold the tensors that filled the memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(batch) // 2
    _run_halving(batch[:half], run)
    _run_halving(batch[half:], run)
