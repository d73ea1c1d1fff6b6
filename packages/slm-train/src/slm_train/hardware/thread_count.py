"""The number of CPU threads, by default the one that is fastest at the moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from slm_train.arguments import Arguments
from slm_train.hardware.device_defaults import precision_name


def set_threads(arguments: Arguments, record: dict[str, Any] | None, print_line: Callable[[str], None]) -> None:
    """Set the number of threads: that of the flag, else that of the resumed run, else the fastest in a measurement.

    With another number of threads sums are computed in another order, and a resumed run would differ in the last bits.
    """
    if not arguments.training.use_cpu:
        return
    recorded = record["device"]["threads"] if record else None
    threads = arguments.run.threads or recorded or fastest_threads()
    torch.set_num_threads(threads)
    precision = precision_name(arguments.training)
    print_line(f"CPU, {threads} {'thread' if threads == 1 else 'threads'} (--threads), {precision} (--bf16)")


def fastest_threads(limit: int | None = None, seconds: float = 0.15) -> int:
    """Return the thread count, of 1, 2, 4 ... up to all cores, with the highest throughput on a training-like load.

    On a busy machine threads wait for each other: on two shared cores one thread is often faster than two.

    Args:
        limit: Upper bound on the count; by default the cores that this process may use.
        seconds: Duration of the measurement for each count.
    """
    cores = limit or available_cores()
    before = torch.get_num_threads()
    candidates = sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)})
    try:
        return max(candidates, key=lambda threads: _throughput(threads, seconds))
    finally:
        torch.set_num_threads(before)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; in a container it may be fewer than os.cpu_count()
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _throughput(threads: int, seconds: float) -> float:
    """Return products per second of a matrix with the size of a layer of a small model."""
    torch.set_num_threads(threads)
    x, weight = torch.ones(1024, 256), torch.ones(256, 1024)
    x @ weight  # warms up: the first product starts the threads
    start, products = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        torch.nn.functional.gelu(x @ weight)
        products += 1
    return products / elapsed
