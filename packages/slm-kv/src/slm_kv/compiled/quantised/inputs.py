"""Inputs in 8 bits, in groups of 32 with a scale each, for products with quantised weights.

A row has I int8 numbers, then I / 32 float32 scales, then I / 32 int32 sums of the numbers of a group.
"""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, njit

from slm_kv.compiled.addresses import float32_at, int8_at, int32_at, word
from slm_kv.compiled.program import ROWS
from slm_kv.compiled.tiles import GROUP


def quantised_width(inputs: int) -> int:
    """Columns of a float32 buffer whose rows hold ``inputs`` inputs in 8 bits."""
    return inputs // 4 + 2 * (inputs // GROUP)


@njit(inline="always")
def _quantise_row(x: np.ndarray, numbers: np.ndarray, scales: np.ndarray, sums: np.ndarray) -> None:
    """Round ``x`` [I] to ``numbers`` [I], with ``scales`` and ``sums`` [I / 32] of its groups."""
    bits = x.view(np.uint32)
    for group in range(len(scales)):
        first = group * GROUP
        top = np.uint32(0)  # of the magnitudes' bits, which are ordered like the numbers; NaN is above all
        for index in range(first, first + GROUP):
            top = max(top, bits[index] & np.uint32(0x7FFFFFFF))
        largest = np.uint32(top).view(np.float32)
        inverse = np.float32(127.0) / largest if largest >= np.float32(1e-36) else np.float32(0.0)
        total = np.int32(0)
        for index in range(first, first + GROUP):
            number = np.int32(np.rint(x[index] * inverse))
            numbers[index] = np.int8(number)
            total += number
        scales[group], sums[group] = largest / np.float32(127.0), total


def subtract_rounded(context: int, arguments: int, thread: int, threads: int) -> None:
    """Compute what rounding lost: the inputs minus what ``quantise_inputs`` has made of them.

    Arguments: the words of the inputs, those of the scratch, I, the words of the output, which may be the inputs.
    """
    x, x_row_bytes = word(arguments, 0) + thread * word(arguments, 2), word(arguments, 1)
    scratch, scratch_row_bytes = word(arguments, 3) + thread * word(arguments, 5), word(arguments, 4)
    inputs = word(arguments, 6)
    out, out_row_bytes = word(arguments, 7) + thread * word(arguments, 9), word(arguments, 8)
    for row in range(word(context, ROWS)):
        at = scratch + row * scratch_row_bytes
        x_I = carray(float32_at(x + row * x_row_bytes), (inputs,))
        out_I = carray(float32_at(out + row * out_row_bytes), (inputs,))
        numbers = carray(int8_at(at), (inputs,))
        scales = carray(float32_at(at + inputs), (inputs // GROUP,))
        for index in range(inputs):
            out_I[index] = x_I[index] - numbers[index] * scales[index // GROUP]


def quantise_inputs(context: int, arguments: int, thread: int, threads: int) -> None:
    """Round all rows into the thread's own scratch. A group with NaN or infinity makes the products NaN.

    Arguments: the words of the input, those of the scratch, I.
    """
    x, x_row_bytes = word(arguments, 0) + thread * word(arguments, 2), word(arguments, 1)
    out, out_row_bytes = word(arguments, 3) + thread * word(arguments, 5), word(arguments, 4)
    inputs = word(arguments, 6)
    groups = inputs // GROUP
    for row in range(word(context, ROWS)):
        to = out + row * out_row_bytes
        _quantise_row(
            carray(float32_at(x + row * x_row_bytes), (inputs,)),
            carray(int8_at(to), (inputs,)),
            carray(float32_at(to + inputs), (groups,)),
            carray(int32_at(to + inputs + 4 * groups), (groups,)),
        )
