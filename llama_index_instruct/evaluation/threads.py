"""One thread, for times that mean something on a shared machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

# OpenBLAS's threads wait for work this long before they sleep, and their waiting counts as CPU time.
IDLE_SPIN = 0.1


@contextmanager
def one_thread() -> Iterator[None]:
    """Times are CPU times of one thread: with more, small matrices are mostly waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            time.sleep(IDLE_SPIN)
            yield
    finally:
        torch.set_num_threads(before)
