"""Sums, scaling and capping of buffers, shared among threads by blocks of 64 columns."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from numba import cfunc

from slm_kv.compiled.addresses import word
from slm_kv.compiled.elements import tanh
from slm_kv.compiled.operations.shares import float_of, row_at, thread_columns
from slm_kv.compiled.program import OPERATION_OPTIONS, ROWS, SIGNATURE, Buffer, Instruction, float_bits


def add(x: Buffer, y: Buffer, scale: float = 1.0) -> Instruction:
    """Add ``scale`` * ``y`` to ``x``, both [R, width]."""
    return (_add.address, *x.words, *y.words, x.width, float_bits(scale))


def scale(x: Buffer, factor: float) -> Instruction:
    """Multiply ``x`` [R, width] by ``factor``."""
    return (_scale.address, *x.words, x.width, float_bits(factor))


def softcap(x: Buffer, cap: float) -> Instruction:
    """Replace x by ``cap`` * tanh(x / ``cap``)."""
    return (_softcap.address, *x.words, x.width, float_bits(cap))


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _add(context: int, arguments: int, thread: int, threads: int) -> None:
    width, factor = word(arguments, 6), float_of(word(arguments, 7))
    first, end = thread_columns(width, thread, threads)
    for row in range(word(context, ROWS)):
        x, y = row_at(arguments, 0, row, thread, width), row_at(arguments, 3, row, thread, width)
        for i in range(first, end):
            x[i] += factor * y[i]


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _scale(context: int, arguments: int, thread: int, threads: int) -> None:
    width, factor = word(arguments, 3), float_of(word(arguments, 4))
    first, end = thread_columns(width, thread, threads)
    for row in range(word(context, ROWS)):
        x = row_at(arguments, 0, row, thread, width)
        for i in range(first, end):
            x[i] *= factor


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _softcap(context: int, arguments: int, thread: int, threads: int) -> None:
    width, cap = word(arguments, 3), float_of(word(arguments, 4))
    first, end = thread_columns(width, thread, threads)
    for row in range(word(context, ROWS)):
        x = row_at(arguments, 0, row, thread, width)
        for i in range(first, end):
            x[i] = cap * tanh(x[i] / cap)
