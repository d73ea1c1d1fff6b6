"""How many threads of the CPU finish first: on a busy machine more of them wait for each other."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ROUNDS = 5
WORTH = 0.95  # more threads have to take less than this share of the time


def set_threads(model: Any, asked: int | None) -> int:
    """Have torch use ``asked`` threads; of None, on a CPU, as many as compute one token of ``model`` fastest."""
    if asked:
        torch.set_num_threads(asked)
    elif model.device.type == "cpu":
        token = torch.zeros(1, 1, dtype=torch.long)
        with torch.inference_mode():
            fastest_threads(lambda: model(token, use_cache=False))
    return torch.get_num_threads()


def fastest_threads(run: Callable[[], object], most: int | None = None) -> int:
    """Sets and returns the number of torch's threads, of 1, 2, 4 ... ``most``, with which ``run`` is fastest.

    Rounds of all numbers take turns, and medians count: a moment of other load hits all alike. ``most`` is all cores
    of this process unless given.
    """
    cores = most or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    candidates = sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)})
    times: dict[int, list[float]] = {threads: [] for threads in candidates}
    for turn in range(ROUNDS + 1):
        for threads in candidates:
            torch.set_num_threads(threads)
            start = time.perf_counter()
            run()
            if turn:  # the first warms up
                times[threads].append(time.perf_counter() - start)
    best = candidates[0]
    for threads in candidates[1:]:
        if statistics.median(times[threads]) < WORTH * statistics.median(times[best]):
            best = threads
    torch.set_num_threads(best)
    return best
