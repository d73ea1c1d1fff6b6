"""What operations share: rows of buffers and the share of a thread."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, njit

from slm_kv.compiled.addresses import float32_at, word
from slm_kv.compiled.block_weights import BLOCK

Array = np.ndarray


def address_of(array: Array | None) -> int:
    """The address of a C-contiguous float32 array; 0 for None.

    Raises:
        ValueError: The array has another dtype or layout.
    """
    if array is None:
        return 0
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise ValueError(f"Operations read contiguous float32 and this array is {array.dtype}; convert it first")
    return int(array.ctypes.data)


@njit(inline="always")
def float_of(bits: int) -> np.float32:
    """The float32 of an instruction's argument."""
    return np.uint32(bits).view(np.float32)


@njit(inline="always")
def row_at(arguments: int, index: int, row: int, thread: int, width: int) -> np.ndarray:
    """Row ``row`` of the buffer in words ``index`` to ``index`` + 2, as float32 [width]."""
    start = word(arguments, index) + row * word(arguments, index + 1) + thread * word(arguments, index + 2)
    return carray(float32_at(start), (width,))


@njit(inline="always")
def floats_at(address: int, count: int) -> np.ndarray:
    """float32 [count] at ``address``."""
    return carray(float32_at(address), (count,))


@njit(inline="always")
def thread_columns(width: int, thread: int, threads: int) -> tuple[int, int]:
    """Where the thread's share of ``width`` columns, whole blocks of 64, begins and ends."""
    blocks = (width + BLOCK - 1) // BLOCK
    first, end = blocks * thread // threads * BLOCK, blocks * (thread + 1) // threads * BLOCK
    return min(width, first), min(width, end)


@njit(inline="always")
def unit_columns(width: int, first_unit: int, units: int, thread: int, threads: int) -> tuple[int, int]:
    """Where the thread's columns of a layer begin and end, if it shares ``units`` blocks of several layers.

    The layer's own blocks begin at ``first_unit``.
    """
    begin = (units * thread // threads - first_unit) * BLOCK
    end = (units * (thread + 1) // threads - first_unit) * BLOCK
    return max(0, begin), min(width, end)
