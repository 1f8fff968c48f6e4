"""What the benchmarks share: interleaved repeats of two sides, one JSON line a result.

Times are CPU seconds of the process: one thread on a shared machine, where seconds on the wall
also hold other people's work.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def arguments(description: str | None) -> argparse.Namespace:
    """Read ``--quick`` (tiny sizes, for the tests) and set one thread and seed 0."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return options


def keep_freed_memory() -> None:
    """Stop glibc from handing memory back at every free.

    Whether it does hangs on the layout of the heap, so page faults, a tenth of a step of a CNN,
    fall on one side or the other by accident.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)


def seconds(work: Callable[[], Any], times: int = 1) -> float:
    """CPU seconds of one call, as the mean of several."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def interleaved(sides: dict[str, Callable[[], float]], repeats: int = 9) -> dict[str, list[float]]:
    """Ask all sides for their seconds in turn, in the opposite order every other time."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name in list(sides)[:: 1 if repeat % 2 else -1]:
            took = sides[name]()
            if repeat:  # the first round warms up
                found[name].append(took)
    return found


def report(
    name: str,
    sizes: dict[str, Any],
    ours: Sequence[float],
    peer: Sequence[float],
    target: float | None,
    **more: Any,
) -> None:
    """Print one result; the ratio is that of the medians."""
    ratio = statistics.median(ours) / statistics.median(peer)
    line = {
        "name": name,
        "sizes": sizes,
        "ours_s": _summary(ours),
        "peer_s": _summary(peer),
        "ratio": round(ratio, 4),
        "ratio_of_minima": round(min(ours) / min(peer), 4),
        "target": target,
        "met": None if target is None else ratio <= target,
        "repeats": len(ours),
        **more,
        "versions": _versions(),
        "threads": 1,
        "cores": os.cpu_count(),
    }
    print(json.dumps(line), flush=True)


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"min": float(f"{min(values):.4g}"), "median": float(f"{statistics.median(values):.4g}")}


def _versions() -> dict[str, str]:
    named = {name: metadata.version(name) for name in ("torch", "speechbrain", "numpy")}
    return {"python": platform.python_version(), **named}
