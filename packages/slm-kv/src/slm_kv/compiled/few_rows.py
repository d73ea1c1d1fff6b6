"""A linear layer of few rows, compiled by numba: it reads a weight that oneDNN packed, or one laid out alike, in place.

On many CPUs oneDNN reads a weight for a few rows at half of what the memory gives. It lays weights out in blocks of 64
outputs, all inputs of a block in order: sums fill whole registers, and several blocks side by side are as many streams
through memory, of which one alone waits for most of what it reads. Even so what follows is asked for ahead of its use.
More rows leave less room for sums of several blocks.

Shapes: R rows, I inputs, O outputs, B = O / 64 blocks, rounded up, K inputs as padded by oneDNN.
"""

# numba reads the signatures, and takes no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from slm_kv.compiled.elements import SETTINGS, bits, load, rounded, widened
from slm_kv.compiled.prefetching import prefetch_run

BLOCK = 64  # outputs
ROWS = 2 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8  # with one more oneDNN is as fast
STEP = 2  # inputs at once
STREAMS = 4  # blocks at once, with one row or two
FEWER = 3  # with more rows
AHEAD = 512  # words, from what is read to what is asked for meanwhile

Blocks = np.ndarray  # [B, K, 64] float32, or [B, K / 2, 64] uint32: two bfloat16, the first input in the lower half


def blocks_of(packed: Tensor, weight_OI: Tensor) -> Blocks | None:
    """The memory of ``packed``, which must outlive the answer; None unless it is ``weight_OI`` in such blocks."""
    outputs, inputs = weight_OI.shape
    if not hasattr(torch.ops.mkldnn, "data_ptr") or inputs % STEP:
        return None
    count, size = -(-outputs // BLOCK), torch.ops.mkldnn._nbytes(packed)
    words = (ctypes.c_uint32 * (size // 4)).from_address(torch.ops.mkldnn.data_ptr(packed))
    memory = np.ctypeslib.as_array(words)
    if size % (4 * count * BLOCK):
        return None
    blocks = memory.view(np.float32 if weight_OI.dtype is torch.float32 else np.uint32).reshape(count, -1, BLOCK)
    return blocks if _holds(blocks, weight_OI) else None


def _holds(blocks: Blocks, weight_OI: Tensor) -> bool:
    """Block by block, so that no second copy of the weight is made."""
    plain_OI, inputs = bits(weight_OI.detach()), weight_OI.shape[1]
    for number, block in enumerate(blocks):
        rows = plain_OI[number * BLOCK : (number + 1) * BLOCK]
        if weight_OI.dtype is torch.float32:
            found = block[:inputs].T
        else:
            pairs = block[: inputs // 2].T
            found = np.stack((pairs & 0xFFFF, pairs >> 16), axis=2).reshape(BLOCK, -1)
        if found.shape[1] != inputs or not np.array_equal(found[: len(rows)], rows):
            return False
    return True


def rows_of(blocks: Blocks, ids: np.ndarray, inputs: int) -> np.ndarray:
    """Rows ``ids`` [N], whole numbers below O, of the weight: a copy [N, I], float32 or the bits of bfloat16."""
    block, output = ids // BLOCK, ids % BLOCK
    if blocks.dtype == np.float32:
        return blocks[block, :inputs, output]
    return np.ascontiguousarray(blocks[block, : inputs // 2, output]).view(np.uint16)


def linear(x: Tensor, blocks: Blocks, bias_O: np.ndarray, outputs: int) -> Tensor:
    """[..., I] to [..., O]. ``bias_O`` float32, empty for none."""
    out = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype)
    _multiply(bits(x.reshape(-1, x.shape[-1]).contiguous()), blocks, bias_O, bits(out.view(-1, outputs)))
    return out


@njit(inline="always")
def upper(pair):
    """The float32 of the bfloat16 in the upper half of ``pair``."""
    return np.uint32(pair & np.uint32(0xFFFF0000)).view(np.float32)


@njit(inline="always")
def put(sums, bias, block, out):
    """One block's ``sums`` [R, 64] and the bias into ``out`` [R, O]."""
    first = block * BLOCK
    for row in range(out.shape[0]):
        for o in range(min(BLOCK, out.shape[1] - first)):
            number = sums[row, o] + bias[first + o] if len(bias) else sums[row, o]
            out[row, first + o] = rounded(number, out[row, first + o])


def products(blocks, block, i, o, x0, x1):
    """What inputs ``i`` and ``i`` + 1 add to output ``o`` of a block. By index: a view of the block costs a fifth."""
    find = _of_pairs if blocks.dtype == np.uint32 else _plain
    return find(blocks, block, i, o, x0, x1)


@overload(products, inline="always")
def _products(blocks, block, i, o, x0, x1):
    return _of_pairs if blocks.dtype == types.uint32 else _plain


def _plain(blocks, block, i, o, x0, x1):
    return x0 * blocks[block, i, o] + x1 * blocks[block, i + 1, o]


def _of_pairs(blocks, block, i, o, x0, x1):
    pair = blocks[block, i // 2, o]
    return x0 * widened(pair) + x1 * upper(pair)


def _signature(element, word):
    rows = types.Array(element, 2, "C")
    return types.void(rows, types.Array(word, 3, "C"), types.float32[::1], rows)


@njit(inline="always")
def put_blocks(x, blocks, first, streams, bias, sums, out):
    """Blocks ``first`` to ``first + streams - 1``, side by side; ``streams`` a constant, so that loops are unrolled."""
    sums[:] = np.float32(0.0)
    flat, words = blocks.reshape(-1), x.itemsize // 2  # to an output, of STEP inputs
    for i in range(0, x.shape[1], STEP):
        for stream in range(streams):
            start = ((first + stream) * blocks.shape[1] + i // STEP * words) * BLOCK
            prefetch_run(flat, start + AHEAD, words * BLOCK)
        for row in range(x.shape[0]):
            x0, x1 = load(x[row, i]), load(x[row, i + 1])
            for stream in range(streams):
                for o in range(BLOCK):
                    sums[stream, row, o] += products(blocks, first + stream, i, o, x0, x1)
    for stream in range(streams):
        put(sums[stream], bias, first + stream, out)


@njit(inline="always")
def side_by_side(x, blocks, streams, bias, sums, out):
    """All blocks, ``streams`` at a time, those that are left over one by one."""
    whole = len(blocks) // streams * streams
    for first in range(0, whole, streams):
        put_blocks(x, blocks, first, streams, bias, sums, out)
    for first in range(whole, len(blocks)):
        put_blocks(x, blocks, first, 1, bias, sums, out)


@njit([_signature(types.float32, types.float32), _signature(types.uint16, types.uint32)], **SETTINGS)
def _multiply(x, blocks, bias, out):
    """``out`` [R, O] = ``x`` [R, I] times the blocks, plus ``bias``."""
    sums = np.empty((STREAMS, x.shape[0], BLOCK), np.float32)
    if x.shape[0] > 2:
        side_by_side(x, blocks, FEWER, bias, sums, out)
    else:
        side_by_side(x, blocks, STREAMS, bias, sums, out)
