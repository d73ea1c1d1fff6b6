"""LoRA: each row through the adapter of its own."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, cfunc

from slm_kv.compiled.addresses import int32_at, word
from slm_kv.compiled.operations.shares import float_of, floats_at, row_at, thread_columns
from slm_kv.compiled.program import ADAPTERS, OPERATION_OPTIONS, ROWS, SIGNATURE, Buffer, Instruction

TABLE_WORDS = 4  # addresses of A [rank, inputs] and of B transposed [rank, outputs], rank, bits of the float32 scaling


def low_rank_down(x: Buffer, out: Buffer, table: np.ndarray) -> Instruction:
    """Write A x of each row's adapter to ``out`` [R, >= rank]; ``table`` is int64 [adapters, ``TABLE_WORDS``].

    The program must keep the table and the float32 weights alive. A rank of 0: the adapter does not change this layer.
    """
    return (_down.address, *x.words, *out.words, x.width, table.ctypes.data)


def low_rank_up(down: Buffer, out: Buffer, table: np.ndarray) -> Instruction:
    """Add scaling * B ``down`` of each row's adapter to ``out`` [R, outputs]; a barrier separates it from the other."""
    return (_up.address, *down.words, *out.words, out.width, table.ctypes.data)


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _down(context: int, arguments: int, thread: int, threads: int) -> None:
    rows, width, table = word(context, ROWS), word(arguments, 6), word(arguments, 7)
    adapters = carray(int32_at(word(context, ADAPTERS)), (rows,))
    for row in range(rows):
        if adapters[row] < 0:
            continue
        entry = table + 8 * TABLE_WORDS * np.int64(adapters[row])
        rank = word(entry, 2)
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
    first, end = thread_columns(width, thread, threads)
    for row in range(rows):
        if adapters[row] < 0:
            continue
        entry = table + 8 * TABLE_WORDS * np.int64(adapters[row])
        rank, scaling = word(entry, 2), float_of(word(entry, 3))
        down, out = row_at(arguments, 0, row, thread, rank), row_at(arguments, 3, row, thread, width)
        for r in range(rank):
            b, factor = floats_at(word(entry, 1) + 4 * r * width, width), scaling * down[r]
            for i in range(first, end):
                out[i] += factor * b[i]
