"""Activation functions, gated or not, shared among threads by blocks of 64 columns."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math

import numpy as np
from numba import cfunc, njit

from slm_kv.compiled.addresses import word
from slm_kv.compiled.elements import exp
from slm_kv.compiled.operations.shares import row_at, thread_columns
from slm_kv.compiled.program import OPERATION_OPTIONS, ROWS, SIGNATURE, Buffer, Instruction

KINDS = ("silu", "gelu_tanh", "gelu", "relu", "relu2", "quick_gelu")
SILU, GELU_TANH, GELU, RELU, RELU2, QUICK_GELU = range(6)
TWICE_SQRT_2_OVER_PI = np.float32(2 * math.sqrt(2 / math.pi))
CUBIC = np.float32(0.044715)
QUICK = np.float32(1.702)
SQRT_HALF = np.float32(math.sqrt(0.5))
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


def activate(kind: str, gate: Buffer, up: Buffer | None, out: Buffer) -> Instruction:
    """Write the activation of ``gate`` [R, width], times ``up`` unless it is None, to ``out``, which may be ``gate``.

    ``kind`` is one of ``KINDS``: "gelu" is the one by erf, "relu2" the square of ReLU.

    Raises:
        ValueError: Another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no compiled activation {kind!r}; use one of {', '.join(KINDS)}")
    factor = up.words if up else (0, 0, 0)
    return (_activate.address, *gate.words, *factor, *out.words, gate.width, KINDS.index(kind))


@njit(inline="always")
def sigmoid(z: np.float32) -> np.float32:
    """1 / (1 + exp(-z)) without overflow."""
    decay = exp(-abs(z))
    return (ONE if z >= ZERO else decay) / (ONE + decay)


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _activate(context: int, arguments: int, thread: int, threads: int) -> None:
    width, kind, gated = word(arguments, 9), word(arguments, 10), word(arguments, 3) != 0
    first, end = thread_columns(width, thread, threads)
    for row in range(word(context, ROWS)):
        x, out = row_at(arguments, 0, row, thread, width), row_at(arguments, 6, row, thread, width)
        if kind == SILU:
            for i in range(first, end):
                out[i] = x[i] * sigmoid(x[i])
        elif kind == GELU_TANH:
            for i in range(first, end):
                out[i] = x[i] * sigmoid(TWICE_SQRT_2_OVER_PI * (x[i] + CUBIC * x[i] * x[i] * x[i]))
        elif kind == GELU:
            for i in range(first, end):
                out[i] = HALF * x[i] * np.float32(math.erfc(-SQRT_HALF * x[i]))
        elif kind == QUICK_GELU:
            for i in range(first, end):
                out[i] = x[i] * sigmoid(QUICK * x[i])
        else:
            for i in range(first, end):
                positive = ZERO if x[i] < ZERO else x[i]
                out[i] = positive * positive if kind == RELU2 else positive
        if gated:
            up = row_at(arguments, 3, row, thread, width)
            for i in range(first, end):
                out[i] *= up[i]
