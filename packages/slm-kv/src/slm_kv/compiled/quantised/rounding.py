"""Rounding weights to groups of 32 inputs with 256 steps, or with 16 steps and a minimum.

Shapes: O outputs, I inputs, B = O / 64 blocks, G = I / 32 groups.
"""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import njit, types

from slm_kv.compiled.block_weights import BLOCK
from slm_kv.compiled.elements import NUMBA_OPTIONS
from slm_kv.compiled.tiles import GROUP

# The shares of the range from the smallest to the largest number that are tried. The scale is refitted to the steps.
SHRINKS = (np.float32(1.0), np.float32(0.92), np.float32(0.85))
TOP = np.float32(15.0)
_WEIGHT, _NUMBERS = types.Array(types.float32, 2, "C", readonly=True), types.Array(types.float32, 3, "C")


@njit(inline="always")
def _copy_group(weight, block, group, numbers):
    """Copy a group of a block to ``numbers`` [32, 64], so that loops over outputs become vector instructions."""
    for o in range(BLOCK):
        row = weight[block * BLOCK + o, group * GROUP : (group + 1) * GROUP]
        for i in range(GROUP):
            numbers[i, o] = row[i]


@njit(inline="always")
def _clamp(number, top):
    """A number in [0, top]; 0 for NaN."""
    number = number if number > np.float32(0.0) else np.float32(0.0)
    return number if number < top else top


@njit(types.void(_WEIGHT, _NUMBERS), **NUMBA_OPTIONS)
def fit_scales(weight, scales):
    """Write the scales [B, G, 64] for steps from -127 to 127 of ``weight`` [O, I]. NaN stays NaN."""
    for output in range(weight.shape[0]):
        for group in range(scales.shape[1]):
            bits = weight[output, group * GROUP : (group + 1) * GROUP].view(np.uint32)
            largest = np.uint32(0)  # of the magnitudes' bits, which are ordered like the numbers; NaN is above all
            for i in range(GROUP):
                largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
            scale = np.uint32(largest).view(np.float32) / np.float32(127.0)
            scales[output // BLOCK, group, output % BLOCK] = scale


@njit(inline="always")
def _ordered(bits):
    """Map a float32's bits to an int32 of the same order, and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(inline="always")
def _smallest_largest_mean(numbers):
    """The range and the mean of a group."""
    bits = numbers.view(np.int32)
    smallest = largest = _ordered(bits[0])
    total = np.float32(0.0)
    for i in range(GROUP):
        key = _ordered(bits[i])
        smallest, largest = min(smallest, key), max(largest, key)
        total += numbers[i]
    low, high = np.int32(_ordered(smallest)).view(np.float32), np.int32(_ordered(largest)).view(np.float32)
    return low, high, total * np.float32(1 / GROUP)


@njit(inline="always")
def _fit(numbers, low, inverse, mean):
    """Fit a line to the numbers by their steps from ``low`` on: scale, minimum, and how much of the error it explains.

    Sums of products are taken of the numbers minus their ``mean``, which is more exact.
    """
    steps = squares = products = np.float32(0.0)
    for i in range(GROUP):
        step = _clamp(np.rint((numbers[i] - low) * inverse), TOP)
        steps += step
        squares += step * step
        products += step * (numbers[i] - mean)
    mean_step = steps * np.float32(1 / GROUP)
    spread = squares - mean_step * steps
    scale = products / spread if spread > np.float32(0.0) else np.float32(0.0)
    return scale, mean - scale * mean_step, scale * products


@njit(types.void(_WEIGHT, _NUMBERS, _NUMBERS), **NUMBA_OPTIONS)
def fit_ranges(weight, scales, minima):
    """Write the scales and the minima [B, G, 64] for 16 steps: of several, those with the least squared error.

    With a NaN or infinity in a group, the minimum is not finite.
    """
    for output in range(weight.shape[0]):
        for group in range(scales.shape[1]):
            numbers = weight[output, group * GROUP : (group + 1) * GROUP]
            smallest, largest, mean = _smallest_largest_mean(numbers)
            best, scale, minimum = np.float32(-1.0), np.float32(0.0), mean
            for shrink in SHRINKS:
                width = shrink * (largest - smallest)
                low = (largest + smallest - width) * np.float32(0.5)
                inverse = TOP / width if width > np.float32(0.0) else np.float32(0.0)
                fitted, fitted_minimum, explained = _fit(numbers, low, inverse, mean)
                if explained > best:
                    best, scale, minimum = explained, fitted, fitted_minimum
            scales[output // BLOCK, group, output % BLOCK] = scale
            minima[output // BLOCK, group, output % BLOCK] = minimum


@njit(
    types.void(_WEIGHT, _NUMBERS, _NUMBERS, types.boolean, types.Array(types.uint32, 3, "C")),
    **NUMBA_OPTIONS,
)
def pack_steps(weight, scales, minima, is_q8, words):
    """Write the steps of ``weight``, in the order of ``block_formats``.

    Args:
        weight: [O, I].
        scales: [B, G, 64].
        minima: [B, G, 64]: the value of step 0.
        is_q8: 8 bits, else 4.
        words: [B, G, words of a block]; the steps come first.
    """
    numbers = np.empty((GROUP, BLOCK), np.float32)
    inverse, top = np.empty(BLOCK, np.float32), np.float32(255.0) if is_q8 else TOP
    in_word = 4 if is_q8 else 8
    for block in range(words.shape[0]):
        for group in range(words.shape[1]):
            _copy_group(weight, block, group, numbers)
            scale, low, out = scales[block, group], minima[block, group], words[block, group]
            for o in range(BLOCK):
                inverse[o] = np.float32(1.0) / scale[o] if scale[o] != np.float32(0.0) else np.float32(0.0)
            for j in range(GROUP // in_word):
                run = out[j * BLOCK : (j + 1) * BLOCK]
                run[:] = np.uint32(0)
                for k in range(in_word):
                    shift = np.uint32(8 * (k % 4) + 4 * (k // 4))
                    row = numbers[j * in_word + k]
                    for o in range(BLOCK):
                        step = _clamp(np.rint((row[o] - low[o]) * inverse[o]), top)
                        run[o] |= np.uint32(step) << shift
