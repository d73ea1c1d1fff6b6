"""Defaults that fit the device, and the thread count that is fastest right now."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DeviceDefaults:
    """What a run uses where the user named nothing."""

    use_cpu: bool
    bf16: bool
    name: str


def device_defaults(cpu_wanted: bool = False) -> DeviceDefaults:
    """The accelerator where there is one, and bfloat16 autocast where the device multiplies in it."""
    if torch.cuda.is_available() and not cpu_wanted:
        return DeviceDefaults(False, torch.cuda.is_bf16_supported(False), torch.cuda.get_device_name())
    if torch.backends.mps.is_available() and not cpu_wanted:
        return DeviceDefaults(False, False, "Apple GPU")
    return DeviceDefaults(True, cpu_multiplies_bf16(), "CPU")


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions. Others emulate them, several times slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fastest_threads(limit: int | None = None, seconds: float = 0.15) -> int:
    """The thread count, of 1, 2, 4 ... all cores, that finishes a training-like load first.

    On a busy machine more threads wait for each other: on two shared cores one is often faster.
    """
    cores = limit or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = torch.get_num_threads()
    candidates = sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)})
    try:
        return max(candidates, key=lambda threads: _speed(threads, seconds))
    finally:
        torch.set_num_threads(before)


def _speed(threads: int, seconds: float) -> float:
    """Products a second of a matrix the size of a small model's layer."""
    torch.set_num_threads(threads)
    x, weight = torch.ones(1024, 256), torch.ones(256, 1024)
    x @ weight
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        torch.nn.functional.gelu(x @ weight)
        done += 1
    return done / spent
