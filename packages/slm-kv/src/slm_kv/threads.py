"""Choosing the number of CPU threads by measuring it.

More threads are not always faster: on a busy machine they wait for each other, and two threads on two shared cores
can be slower than one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ROUNDS = 5
REQUIRED_TIME_RATIO = 0.95  # more threads are chosen only if they take less than this share of the time


def set_threads(model: Any, threads: int | None) -> int:
    """Set torch's number of CPU threads and return it.

    ``threads`` None measures which number computes one token of ``model`` fastest; for a model on a GPU it changes
    nothing.
    """
    if threads:
        torch.set_num_threads(threads)
    elif model.device.type == "cpu":
        token = torch.zeros(1, 1, dtype=torch.long)
        with torch.inference_mode():
            fastest_threads(lambda: model(token, use_cache=False))
    return torch.get_num_threads()


def fastest_threads(run: Callable[[], object], max_threads: int | None = None) -> int:
    """Set and return the number of threads, out of 1, 2, 4 ... ``max_threads``, with which ``run`` is fastest.

    Candidates are measured in turn and their medians are compared, so that other load on the machine affects all of
    them.
    ``max_threads`` None means all cores available to this process.
    """
    limit = max_threads or _available_cores()
    candidates = sorted({min(2**power, limit) for power in range(limit.bit_length() + 1)})
    times: dict[int, list[float]] = {threads: [] for threads in candidates}
    for round_index in range(ROUNDS + 1):
        for threads in candidates:
            torch.set_num_threads(threads)
            start = time.perf_counter()
            run()
            if round_index:  # the first round warms up
                times[threads].append(time.perf_counter() - start)
    best = candidates[0]
    for threads in candidates[1:]:
        if statistics.median(times[threads]) < REQUIRED_TIME_RATIO * statistics.median(times[best]):
            best = threads
    torch.set_num_threads(best)
    return best


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only; counts what a container or taskset leaves
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
