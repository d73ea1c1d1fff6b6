"""Keeping freed memory in the process while it trains on a CPU with glibc.

A training step frees and allocates tensors of the same sizes as the last one. By default glibc returns large blocks to
the system, and the kernel clears and maps each page again: 300,000 page faults, a seventh of the CPU time of a step,
when every weight of distilgpt2's shape is trained.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NEVER = 2**31 - 1  # bytes
_USUAL_MMAP = 32 * 2**20  # where glibc's own adjustment ends as soon as a block of that size was freed
_USUAL_TRIM = 2 * _USUAL_MMAP


@contextmanager
def kept_heap(device: torch.device) -> Iterator[None]:
    """Let the C library keep freed memory for the next step, and return it at the end.

    Nothing happens on a GPU and without glibc. Peak memory may rise a little, because blocks are reused whole.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    _set_thresholds(libc, _NEVER, _NEVER)
    try:
        yield
    finally:
        _set_thresholds(libc, _USUAL_TRIM, _USUAL_MMAP)
        libc.malloc_trim(0)


def _set_thresholds(libc: Any, trim: int, mmap: int) -> None:
    libc.mallopt(_TRIM_THRESHOLD, trim)
    libc.mallopt(_MMAP_THRESHOLD, mmap)


def _glibc() -> Any:
    """Return the C library of this process if it is glibc, whose options these are."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    names = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    return libc if all(hasattr(libc, name) for name in names) else None
