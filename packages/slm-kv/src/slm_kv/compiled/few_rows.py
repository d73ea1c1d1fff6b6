"""The product of a few input rows and a packed weight, which is read in place.

With few rows the speed is limited by reading the weight, and oneDNN was slower on three of four CPUs (docs/log.md).
Here sums fill whole registers (64 outputs), several blocks are read side by side as separate streams, and the words
that follow are prefetched. One row reads 31 to 37 GB/s in float32 and 28 to 36 in bfloat16; a core can read 41 to 44
(EPYC with AVX512-BF16). Without prefetching it was 24.

Shapes: R rows, I inputs, O outputs, B = O / 64 blocks (rounded up).
"""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from slm_kv.compiled.arrays import as_array
from slm_kv.compiled.elements import NUMBA_OPTIONS, bfloat16_to_float32, from_float32, to_float32
from slm_kv.compiled.prefetching import prefetch_run
from slm_kv.compiled.weight_blocks import BLOCK, INPUTS_AT_ONCE, Blocks

# Rows up to which this is faster than oneDNN; with one more row oneDNN is as fast.
MAX_ROWS = 2 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
STREAMS = 4  # blocks read side by side with one or two rows; a single stream mostly waits for memory
STREAMS_MANY_ROWS = 3  # with more rows, whose sums take more registers
PREFETCH_WORDS = 512  # distance (2 kB) between the word that is read and the one that is prefetched


def linear(x: Tensor, blocks: Blocks, bias_O: np.ndarray, outputs: int) -> Tensor:
    """Multiply [..., I] by a packed weight to [..., O], on one thread. ``bias_O`` is float32, empty for none."""
    out = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype)
    _multiply(as_array(x.reshape(-1, x.shape[-1]).contiguous()), blocks, bias_O, as_array(out.view(-1, outputs)))
    return out


@njit(inline="always")
def upper_half(pair):
    """The float32 of the bfloat16 in the upper half of ``pair``."""
    return np.uint32(pair & np.uint32(0xFFFF0000)).view(np.float32)


@njit(inline="always")
def write_block(sums, bias, block, out):
    """Write one block's ``sums`` [R, 64] plus the bias to ``out`` [R, O]."""
    first = block * BLOCK
    for row in range(out.shape[0]):
        for o in range(min(BLOCK, out.shape[1] - first)):
            number = sums[row, o] + bias[first + o] if len(bias) else sums[row, o]
            out[row, first + o] = from_float32(number, out[row, first + o])


def two_products(blocks, block, i, o, x0, x1):
    """Return the contribution of inputs ``i`` and ``i`` + 1 to output ``o`` of a block.

    ``block`` is an index because creating a view of the block, 200,000 times in each call, would slow the loop down.
    """
    function = _two_products_bfloat16 if blocks.dtype == np.uint32 else _two_products_float32
    return function(blocks, block, i, o, x0, x1)


@overload(two_products, inline="always")
def _two_products(blocks, block, i, o, x0, x1):
    return _two_products_bfloat16 if blocks.dtype == types.uint32 else _two_products_float32


def _two_products_float32(blocks, block, i, o, x0, x1):
    return x0 * blocks[block, i, o] + x1 * blocks[block, i + 1, o]


def _two_products_bfloat16(blocks, block, i, o, x0, x1):
    pair = blocks[block, i // 2, o]
    return x0 * bfloat16_to_float32(pair) + x1 * upper_half(pair)


@njit(inline="always")
def multiply_blocks(x, blocks, first, streams, bias, sums, out):
    """Multiply blocks ``first`` to ``first + streams - 1`` side by side.

    ``streams`` must be a constant where this is called, so that LLVM unrolls the loops over it.
    """
    sums[:] = np.float32(0.0)
    flat, words = blocks.reshape(-1), x.itemsize // 2  # words of one output for INPUTS_AT_ONCE inputs
    for i in range(0, x.shape[1], INPUTS_AT_ONCE):
        for stream in range(streams):
            start = ((first + stream) * blocks.shape[1] + i // INPUTS_AT_ONCE * words) * BLOCK
            prefetch_run(flat, start + PREFETCH_WORDS, words * BLOCK)
        for row in range(x.shape[0]):
            x0, x1 = to_float32(x[row, i]), to_float32(x[row, i + 1])
            for stream in range(streams):
                for o in range(BLOCK):
                    sums[stream, row, o] += two_products(blocks, first + stream, i, o, x0, x1)
    for stream in range(streams):
        write_block(sums[stream], bias, first + stream, out)


@njit(inline="always")
def multiply_all(x, blocks, streams, bias, sums, out):
    """Multiply all blocks, ``streams`` at a time, and the remaining ones one by one."""
    whole = len(blocks) // streams * streams
    for first in range(0, whole, streams):
        multiply_blocks(x, blocks, first, streams, bias, sums, out)
    for first in range(whole, len(blocks)):
        multiply_blocks(x, blocks, first, 1, bias, sums, out)


def _signature(element, word):
    rows = types.Array(element, 2, "C")
    return types.void(rows, types.Array(word, 3, "C"), types.float32[::1], rows)


# Compiled with the module for these two types: compiling at a call would pause in the middle of a text.
@njit([_signature(types.float32, types.float32), _signature(types.uint16, types.uint32)], **NUMBA_OPTIONS)
def _multiply(x, blocks, bias, out):
    """Write ``x`` [R, I] times the blocks, plus ``bias``, to ``out`` [R, O]."""
    sums = np.empty((STREAMS, x.shape[0], BLOCK), np.float32)
    if x.shape[0] > 2:
        multiply_all(x, blocks, STREAMS_MANY_ROWS, bias, sums, out)
    else:
        multiply_all(x, blocks, STREAMS, bias, sums, out)
