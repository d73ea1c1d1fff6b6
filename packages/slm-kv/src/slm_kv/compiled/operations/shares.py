"""What operations share: rows of buffers and the share of a thread."""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, njit

from slm_kv.compiled.addresses import float32_at, word
from slm_kv.compiled.program import BLOCK

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
def float_of(bits):
    """The float32 of an instruction's argument."""
    return np.uint32(bits).view(np.float32)


@njit(inline="always")
def row_at(arguments, index, row, thread, width):
    """Row ``row`` of the buffer in words ``index`` to ``index`` + 2, as float32 [width]."""
    start = word(arguments, index) + row * word(arguments, index + 1) + thread * word(arguments, index + 2)
    return carray(float32_at(start), (width,))


@njit(inline="always")
def floats_at(address, count):
    """float32 [count] at ``address``."""
    return carray(float32_at(address), (count,))


@njit(inline="always")
def first_column(width, thread, threads):
    """Where the thread's share of ``width`` columns begins: whole blocks of 64. It ends where the next one begins."""
    blocks = (width + BLOCK - 1) // BLOCK
    return min(width, blocks * thread // threads * BLOCK)
