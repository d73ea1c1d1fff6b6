"""The layout of packed weights that compiled code reads: blocks of 64 outputs, the inputs of a block in order.

oneDNN packs weights like this on most CPUs. It does not document the layout, so the packed memory is compared with the
plain weight before it is used. Weights that oneDNN cannot pack are stored in the same layout.

Shapes: N rows, I inputs, O outputs, B = O / 64 blocks (rounded up), K inputs as padded by oneDNN.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from slm_kv.compiled.arrays import as_array

BLOCK = 64  # outputs in a block
INPUTS_AT_ONCE = 2  # inputs that compiled code reads together; two bfloat16 share a word

Blocks = np.ndarray  # [B, K, 64] float32, or [B, K / 2, 64] uint32: two bfloat16, the first input in the lower half


def view_blocks(packed: Tensor, weight_OI: Tensor) -> Blocks | None:
    """View the memory of oneDNN's ``packed`` weight as blocks.

    Args:
        packed: ``weight_OI`` packed by oneDNN. It must outlive the view.
        weight_OI: The plain weight, with which the memory is compared.

    Returns:
        The view; None if oneDNN packed the weight in another layout, as it does for bfloat16 on CPUs with AMX.
    """
    outputs, inputs = weight_OI.shape
    if not hasattr(torch.ops.mkldnn, "data_ptr") or inputs % INPUTS_AT_ONCE:
        return None
    block_count, nbytes = -(-outputs // BLOCK), torch.ops.mkldnn._nbytes(packed)
    words = (ctypes.c_uint32 * (nbytes // 4)).from_address(torch.ops.mkldnn.data_ptr(packed))
    memory = np.ctypeslib.as_array(words)
    if nbytes % (4 * block_count * BLOCK):
        return None
    blocks = memory.view(np.float32 if weight_OI.dtype is torch.float32 else np.uint32).reshape(block_count, -1, BLOCK)
    return blocks if _equal(blocks, weight_OI) else None


def _equal(blocks: Blocks, weight_OI: Tensor) -> bool:
    """Compare block by block, without a second copy of the whole weight."""
    plain_OI, inputs = as_array(weight_OI.detach()), weight_OI.shape[1]
    for index, block in enumerate(blocks):
        expected = plain_OI[index * BLOCK : (index + 1) * BLOCK]
        if weight_OI.dtype is torch.float32:
            rows = block[:inputs].T
        else:
            pairs = block[: inputs // 2].T
            rows = np.stack((pairs & 0xFFFF, pairs >> 16), axis=2).reshape(BLOCK, -1)
        if rows.shape[1] != inputs or not np.array_equal(rows[: len(expected)], expected):
            return False
    return True


def gather_rows(blocks: Blocks, ids: np.ndarray, inputs: int) -> np.ndarray:
    """Copy rows ``ids`` [N], each below O, of the weight to [N, I], as float32 or as the bits of bfloat16."""
    block, output = ids // BLOCK, ids % BLOCK
    if blocks.dtype == np.float32:
        return blocks[block, :inputs, output]
    return np.ascontiguousarray(blocks[block, : inputs // 2, output]).view(np.uint16)


def pack_bfloat16(weight_OI: Tensor) -> Blocks:
    """Lay out a bfloat16 weight with an even number of inputs: [B, I / 2, 64] uint32."""
    outputs, inputs = weight_OI.shape
    blocks = np.zeros((-(-outputs // BLOCK), inputs // 2, BLOCK), np.uint32)
    for index, block in enumerate(blocks):
        rows = weight_OI[index * BLOCK : (index + 1) * BLOCK].detach().contiguous()
        block[:, : len(rows)] = as_array(rows).view(np.uint32).T  # the first of two inputs in the lower half
    return blocks


def unpack_bfloat16(blocks: Blocks, outputs: int) -> Tensor:
    """Return the weight [O, I] that ``pack_bfloat16`` laid out, bit for bit."""
    inputs = 2 * blocks.shape[1]
    pairs = blocks.transpose(0, 2, 1).reshape(-1, inputs // 2)[:outputs]
    return torch.from_numpy(np.ascontiguousarray(pairs).view(np.uint16)).view(torch.bfloat16)
