"""Blocks of 8 or 4 bits widened into the memory of a weight that oneDNN packed, tile by tile.

Shapes: b blocks of a tile, G groups of 32 inputs, W outputs that oneDNN keeps together (64, or 32 with AMX).
"""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import njit, types

from slm_kv.compiled.elements import NUMBA_OPTIONS

BLOCK = 64
PAIRS = 16  # pairs of inputs in a group


@njit(inline="always")
def upper_bits(number):
    """The bits of a float32 rounded to bfloat16, in the upper half; NaN may become infinity, never a number."""
    bits = np.float32(number).view(np.uint32)
    return bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))


@njit(inline="always")
def step(word, shift, mask):
    """One step of a word as float32."""
    return np.float32(np.int32((word >> np.uint32(shift)) & np.uint32(mask)))


@njit(inline="always")
def widen_word(word, shift, mask, scale, offset):
    """Two steps, 8 bits apart, as a pair of bfloat16: ``step * scale + offset`` each."""
    first = upper_bits(step(word, shift, mask) * scale + offset)
    second = upper_bits(step(word, shift + 8, mask) * scale + offset)
    return (first >> np.uint32(16)) | (second & np.uint32(0xFFFF0000))


@njit(inline="always")
def widen_run(words, shift, mask, scales, offsets, out):
    """Widen two steps of each word."""
    for o in range(len(out)):
        out[o] = widen_word(words[o], shift, mask, scales[o], offsets[o])


@njit(inline="always")
def widen_numbers_run(words, shift, mask, scales, offsets, out):
    """Widen one step of each word."""
    for o in range(len(out)):
        out[o] = step(words[o], shift, mask) * scales[o] + offsets[o]


_WORDS, _NUMBERS = types.Array(types.uint32, 3, "C"), types.Array(types.float32, 3, "C")


@njit(
    types.void(_WORDS, _NUMBERS, _NUMBERS, types.boolean, types.Array(types.uint32, 3, "C")),
    **NUMBA_OPTIONS,
)
def widen_pairs(words, scales, offsets, is_q8, out):
    """Widen to pairs of bfloat16.

    Args:
        words: [b, G, words of a block]; the steps come first.
        scales: [b, G, 64].
        offsets: [b, G, 64]: the value of step 0.
        is_q8: 8 bits, else 4.
        out: [b * 64 / W, I / 2, W], the first input of a pair in the lower half.
    """
    width = out.shape[2]
    for block in range(words.shape[0]):
        for part in range(BLOCK // width):
            target, start = block * (BLOCK // width) + part, part * width
            for group in range(words.shape[1]):
                scale, offset = scales[block, group, start:], offsets[block, group, start:]
                for j in range(8 if is_q8 else 4):
                    run, first = words[block, group, j * BLOCK + start :], group * PAIRS + (2 * j if is_q8 else 4 * j)
                    if is_q8:
                        widen_run(run, 0, 255, scale, offset, out[target, first])
                        widen_run(run, 16, 255, scale, offset, out[target, first + 1])
                    else:
                        widen_run(run, 0, 15, scale, offset, out[target, first])
                        widen_run(run, 16, 15, scale, offset, out[target, first + 1])
                        widen_run(run, 4, 15, scale, offset, out[target, first + 2])
                        widen_run(run, 20, 15, scale, offset, out[target, first + 3])


@njit(types.void(_WORDS, _NUMBERS, _NUMBERS, types.boolean, _NUMBERS), **NUMBA_OPTIONS)
def widen_numbers(words, scales, offsets, is_q8, out):
    """Widen to float32: as ``widen_pairs``, with ``out`` [b, I, 64]."""
    for block in range(words.shape[0]):
        for group in range(words.shape[1]):
            scale, offset = scales[block, group], offsets[block, group]
            for j in range(8 if is_q8 else 4):
                run = words[block, group, j * BLOCK :]
                for b in range(4):
                    if is_q8:
                        widen_numbers_run(run, 8 * b, 255, scale, offset, out[block, group * 32 + 4 * j + b])
                    else:
                        first = group * 32 + 8 * j + b
                        widen_numbers_run(run, 8 * b, 15, scale, offset, out[block, first])
                        widen_numbers_run(run, 8 * b + 4, 15, scale, offset, out[block, first + 4])
