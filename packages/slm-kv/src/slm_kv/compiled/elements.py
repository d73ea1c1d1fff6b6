"""Element types of the compiled kernels: float32, and bfloat16 as uint16 bits. Arithmetic is in float32."""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

# ``fastmath``: only the flags that let LLVM vectorize sums; with nnan or ninf a NaN could get lost. ``cache`` keeps the
# machine code on disk, so that each machine compiles once. ``error_model``: no check for division by zero.
NUMBA_OPTIONS = {"fastmath": {"reassoc", "contract", "nsz"}, "cache": True, "nogil": True, "error_model": "numpy"}

LOG2_E = np.float32(1.4426950408889634)
# Coefficients of 2**f for f in [-0.5, 0.5], from the Taylor series of exp(f ln 2): relative error at most 1.2e-7.
C1, C2, C3 = np.float32(0.6931471805599453), np.float32(0.2402265069591007), np.float32(0.05550410866482158)
C4, C5, C6 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443), np.float32(0.00015403530393381608)
# Coefficients of tanh(x) = x + x**3 * polynomial(x**2) for |x| < 0.625, where 1 - 2 / (exp(2 x) + 1) would cancel.
# Source: Cephes (Moshier), tanhf.c.
T1, T2, T3 = np.float32(-0.333332819422), np.float32(0.133314422036), np.float32(-0.0537397155531)
T4, T5 = np.float32(0.0206390887954), np.float32(-0.00570498872745)


@njit(inline="always")
def bfloat16_to_float32(bits):
    """The float32 of a bfloat16's bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(**NUMBA_OPTIONS)
def float32_to_bfloat16(number):
    """The bits of ``number`` rounded to bfloat16, ties to even."""
    if number != number:
        return np.uint16(0x7FC0)  # rounding up could turn a NaN into infinity
    bits = np.float32(number).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


# numba selects the implementation of ``to_float32`` and ``from_float32`` by the element's type when it compiles. The
# plain Python functions run when the JIT is disabled (NUMBA_DISABLE_JIT).


def to_float32(element):
    """An element as float32."""
    return bfloat16_to_float32(element) if isinstance(element, np.uint16) else element


@overload(to_float32, inline="always")
def _to_float32(element):
    if element == types.uint16:
        return lambda element: bfloat16_to_float32(element)
    return lambda element: element


def from_float32(number, like):
    """A float32 as an element of the type of ``like``."""
    return float32_to_bfloat16(number) if isinstance(like, np.uint16) else number


@overload(from_float32, inline="always")
def _from_float32(number, like):
    if like == types.uint16:
        return lambda number, like: float32_to_bfloat16(number)
    return lambda number, like: number


@njit(inline="always")
def exp(x):
    """exp of x <= 0, as a polynomial: LLVM vectorizes a loop over it, but not over calls of libm's exp."""
    y = max(x * LOG2_E, np.float32(-126.0))  # smaller powers of two have no normal float32
    n = np.floor(y + np.float32(0.5))
    f = y - n
    p = np.float32(1.0) + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(inline="always")
def tanh(x):
    """tanh without a call of libm, so that LLVM vectorizes a loop over it; NaN for NaN."""
    z = x * x
    near_zero = x + x * z * (T1 + z * (T2 + z * (T3 + z * (T4 + z * T5))))
    decay = exp(np.float32(-2.0) * abs(x))
    magnitude = (np.float32(1.0) - decay) / (np.float32(1.0) + decay)
    far = magnitude if x > 0 else -magnitude
    return far if abs(x) >= np.float32(0.625) else near_zero
