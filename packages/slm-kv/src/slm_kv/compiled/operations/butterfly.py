"""Butterfly rotations: factors of small matrices on strided groups of columns, by each row's adapter."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from slm_kv.compiled.addresses import float32_at, int32_at, word
from slm_kv.compiled.elements import NUMBA_OPTIONS
from slm_kv.compiled.operations.shares import floats_at, row_at
from slm_kv.compiled.program import ADAPTERS, OPERATION_OPTIONS, ROWS, SIGNATURE, Buffer, Instruction

BUTTERFLY_WORDS = 4  # address of int64 [factors, FACTOR_WORDS], factors, block, address of magnitudes [width] or 0
FACTOR_WORDS = 3  # address of float32 matrices [m, m, width / m], m, stride


def butterfly(x: Buffer, out: Buffer, table: np.ndarray) -> Instruction:
    """Write the rotated columns of ``x`` [R, width] to the shared ``out``, which may be ``x``.

    Each factor multiplies groups of m columns that are ``stride`` apart, group g by ``matrices[:, :, g]``: group
    outer * stride + inner is the columns (outer * m + d) * stride + inner for d below m. Then columns are multiplied by
    the magnitudes. Columns of different blocks do not depend on each other, so that threads share the blocks: a barrier
    separates it from what reads or writes other columns.

    Args:
        x: The columns.
        out: Where they go.
        table: int64 [adapters, ``BUTTERFLY_WORDS``]. No factors and no magnitudes: the columns stay. The program must
            keep alive what it refers to.
    """
    return (_butterfly.address, *x.words, *out.words, x.width, table.ctypes.data)


@njit(**NUMBA_OPTIONS)
def _multiply_factor(out: np.ndarray, begin: int, end: int, factor: int, groups: np.ndarray) -> None:
    """Multiply columns ``begin`` to ``end`` - 1 in place; ``groups`` [2, width] is for intermediate results."""
    m, stride = word(factor, 1), word(factor, 2)
    count = len(out) // m
    matrices = carray(float32_at(word(factor, 0)), (m, m, count))
    first, last = begin // m, end // m
    for outer in range(first // stride, last // stride):
        for d in range(m):
            for inner in range(stride):
                groups[0, d * count + outer * stride + inner] = out[(outer * m + d) * stride + inner]
    for d in range(m):
        for g in range(first, last):
            groups[1, d * count + g] = matrices[d, 0, g] * groups[0, g]
        for e in range(1, m):
            for g in range(first, last):
                groups[1, d * count + g] += matrices[d, e, g] * groups[0, e * count + g]
    for outer in range(first // stride, last // stride):
        for d in range(m):
            for inner in range(stride):
                out[(outer * m + d) * stride + inner] = groups[1, d * count + outer * stride + inner]


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _butterfly(context: int, arguments: int, thread: int, threads: int) -> None:
    rows, width, table = word(context, ROWS), word(arguments, 6), word(arguments, 7)
    adapters = carray(int32_at(word(context, ADAPTERS)), (rows,))
    groups = np.empty((2, width), np.float32)
    for row in range(rows):
        factors, block, magnitudes = np.int64(0), np.int64(1), np.int64(0)
        entry = table + 8 * BUTTERFLY_WORDS * np.int64(max(adapters[row], 0))
        if adapters[row] >= 0:
            factors, block, magnitudes = word(entry, 1), word(entry, 2), word(entry, 3)
        blocks = width // block
        begin, end = blocks * thread // threads * block, blocks * (thread + 1) // threads * block
        x, out = row_at(arguments, 0, row, thread, width), row_at(arguments, 3, row, thread, width)
        for i in range(begin, end):
            out[i] = x[i]
        for index in range(factors):
            _multiply_factor(out, begin, end, word(entry, 0) + 8 * FACTOR_WORDS * index, groups)
        if magnitudes:
            magnitude = floats_at(magnitudes, width)
            for i in range(begin, end):
                out[i] *= magnitude[i]
