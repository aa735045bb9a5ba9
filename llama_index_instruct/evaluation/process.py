"""What this process holds: memory, objects, threads, open files."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path


def process_state() -> dict[str, float | None]:
    """Return resident megabytes, objects that Python's collector knows, threads, and open files and sockets.

    What the system does not tell is None; where there is no ``/proc`` the memory is its peak so far.
    """
    gc.collect()
    return {
        "resident_mb": resident_megabytes(),
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "open_files": open_files(),
    }


def resident_megabytes() -> float | None:
    """Return the memory this process holds; its peak so far where there is no ``/proc``; None on Windows."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        try:
            import resource
        except ImportError:
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return round(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def open_files() -> int | None:
    """Return how many files and sockets are open; None where the system does not list them."""
    for folder in (Path("/proc/self/fd"), Path("/dev/fd")):
        if folder.is_dir():
            return len(list(folder.iterdir()))
    return None
