"""float32 and bfloat16 in compiled code: elements come and go as either, arithmetic, ``exp`` among it, is float32.

numpy lacks bfloat16: its bits come as uint16.
"""

# numba reads the signatures, and takes no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

SETTINGS = {"fastmath": {"reassoc", "contract", "nsz"}, "cache": True, "nogil": True, "error_model": "numpy"}
compiled = njit(**SETTINGS)

LOG2_E = np.float32(1.4426950408889634)
# 2**f for f in [-0.5, 0.5], Taylor's series of exp(f ln 2): off by 1.2e-7 of the value at most.
C1, C2, C3 = np.float32(0.6931471805599453), np.float32(0.2402265069591007), np.float32(0.05550410866482158)
C4, C5, C6 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443), np.float32(0.00015403530393381608)


def bits(tensor: Tensor) -> np.ndarray:
    """``tensor`` as numpy, bfloat16 as uint16. No copy."""
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


@njit(inline="always")
def widened(bits):
    """The float32 of a bfloat16's bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


def load(element):
    """An element of a page as float32."""
    return widened(element) if isinstance(element, np.uint16) else element


@overload(load, inline="always")
def _load(element):
    if element == types.uint16:
        return lambda element: widened(element)
    return lambda element: element


def rounded(number, like):
    """A float32 as what ``like`` is: itself, or the bits of a bfloat16, ties to even."""
    return to_bfloat16(number) if isinstance(like, np.uint16) else number


@overload(rounded, inline="always")
def _rounded(number, like):
    if like == types.uint16:
        return lambda number, like: to_bfloat16(number)
    return lambda number, like: number


@compiled
def to_bfloat16(number):
    """The bits of ``number`` rounded to bfloat16."""
    if number != number:
        return np.uint16(0x7FC0)
    bits = np.float32(number).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(inline="always")
def exp(x):
    """exp of x <= 0. LLVM makes vector code of a loop of it, which it does not of a call of libm."""
    y = max(x * LOG2_E, np.float32(-126.0))
    n = np.floor(y + np.float32(0.5))
    f = y - n
    p = np.float32(1.0) + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
