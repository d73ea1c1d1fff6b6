"""LoRA: each row through the adapter of its own."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, cfunc

from slm_kv.compiled.addresses import int32_at, word
from slm_kv.compiled.operations.shares import floats_at, row_at, unit_columns
from slm_kv.compiled.program import ADAPTERS, OPERATION_OPTIONS, ROWS, SIGNATURE, Buffer, Instruction

DOWN_WORDS = 2  # address of A [rank, inputs], rank
UP_WORDS = 3  # address of B transposed [rank, outputs], scaled; rank; the first column of A x


def low_rank_down(x: Buffer, out: Buffer, table: np.ndarray) -> Instruction:
    """Write A x of each row's adapter to ``out`` [R, >= rank]; ``table`` is int64 [adapters, ``DOWN_WORDS``].

    The program must keep the table and the float32 weights alive. A rank of 0: the adapter does not change this layer.
    """
    return (_down.address, *x.words, *out.words, x.width, table.ctypes.data)


def low_rank_up(down: Buffer, out: Buffer, table: np.ndarray, first_unit: int, units: int) -> Instruction:
    """Add B ``down`` of each row's adapter to ``out`` [R, outputs]; a barrier separates it from ``low_rank_down``.

    ``table`` is int64 [adapters, ``UP_WORDS``]. Of ``units`` blocks, this layer's begin at ``first_unit``, as in the
    product that writes ``out``: each thread changes what it has written.
    """
    return (_up.address, *down.words, *out.words, out.width, table.ctypes.data, first_unit, units)


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _down(context: int, arguments: int, thread: int, threads: int) -> None:
    rows, width, table = word(context, ROWS), word(arguments, 6), word(arguments, 7)
    adapters = carray(int32_at(word(context, ADAPTERS)), (rows,))
    for row in range(rows):
        if adapters[row] < 0:
            continue
        entry = table + 8 * DOWN_WORDS * np.int64(adapters[row])
        rank = word(entry, 1)
        x, out = row_at(arguments, 0, row, thread, width), row_at(arguments, 3, row, thread, rank)
        for r in range(rank * thread // threads, rank * (thread + 1) // threads):
            a, dot = floats_at(word(entry, 0) + 4 * r * width, width), np.float32(0.0)
            for i in range(width):
                dot += a[i] * x[i]
            out[r] = dot


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _up(context: int, arguments: int, thread: int, threads: int) -> None:
    rows, width, table = word(context, ROWS), word(arguments, 6), word(arguments, 7)
    adapters = carray(int32_at(word(context, ADAPTERS)), (rows,))
    begin, end = unit_columns(width, word(arguments, 8), word(arguments, 9), thread, threads)
    for row in range(rows):
        if adapters[row] < 0 or begin >= end:
            continue
        entry = table + 8 * UP_WORDS * np.int64(adapters[row])
        rank, first = word(entry, 1), word(entry, 2)
        down, out = row_at(arguments, 0, row, thread, first + rank), row_at(arguments, 3, row, thread, width)
        for r in range(rank):
            b, factor = floats_at(word(entry, 0) + 4 * r * width, width), down[first + r]
            for i in range(begin, end):
                out[i] += factor * b[i]
