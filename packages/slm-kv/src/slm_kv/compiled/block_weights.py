"""Weights in blocks of outputs, as compiled products read them.

oneDNN packs float32 and bfloat16 like this on most CPUs. It does not document the layout, so the packed memory is
compared with the plain weight before it is read.

Layouts (I inputs, O outputs; the last block is padded):
    float32: blocks of 64 outputs, [O / 64, I, 64].
    bfloat16: [O / 64, I / 2, 64] words, the first of two inputs in the lower half; on CPUs with AMX oneDNN makes blocks
        of 32 outputs. The last of an odd number of inputs is padded with 0.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from slm_kv.compiled.arrays import as_array

BLOCK = 64  # outputs in a block; also the columns that threads share as one unit
BLOCK_WITH_AMX = 32  # in bfloat16
CACHE_LINE = 64  # bytes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class BlockWeight:
    """A weight in memory that compiled code reads.

    Attributes:
        format: ``float32`` or ``bfloat16``; ``q8``, ``q4`` and ``q41`` are laid out as ``tiles`` describes, and have no
            ``rows`` and no ``dense``.
        memory: The blocks, uint8 [blocks, block_bytes].
        outputs, inputs: The weight's shape.
        width: Outputs in a block: 64, or 32.
        owner: An object that keeps the memory alive.
    """

    format: str
    memory: np.ndarray = field(repr=False)
    outputs: int
    inputs: int
    width: int = BLOCK
    owner: object = field(default=None, repr=False)

    @property
    def address(self) -> int:
        """The address of the first block."""
        return int(self.memory.ctypes.data)

    @property
    def block_bytes(self) -> int:
        """Bytes from block to block."""
        return int(self.memory.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, padding included."""
        return int(self.memory.nbytes)

    @property
    def words(self) -> np.ndarray:
        """The blocks as float32 [blocks, I, width], or as uint32 [blocks, I / 2, width] of two bfloat16 each."""
        words = self.memory.view(np.float32 if self.format == "float32" else np.uint32)
        return words.reshape(len(words), -1, self.width)

    def rows(self, ids: Tensor) -> Tensor:
        """Copy rows ``ids`` [N], each from 0 to O - 1, to [N, I], bit for bit."""
        block, output = np.divmod(ids.numpy(), self.width)
        rows = np.ascontiguousarray(self.words[block, :, output])
        return torch.from_numpy(rows.view(np.uint8)).view(DTYPES[self.format])[:, : self.inputs]

    def dense(self) -> Tensor:
        """The weight [O, I], bit for bit."""
        rows = np.ascontiguousarray(self.words.transpose(0, 2, 1)).view(np.uint8)
        weight = torch.from_numpy(rows.reshape(-1, rows.shape[2])).view(DTYPES[self.format])
        return weight[: self.outputs, : self.inputs].contiguous()


def view_onednn(packed: Tensor, weight_OI: Tensor) -> BlockWeight | None:
    """View the memory of oneDNN's ``packed`` weight.

    Args:
        packed: ``weight_OI`` packed by oneDNN.
        weight_OI: The plain weight, with which the memory is compared.

    Returns:
        The view, which keeps ``packed`` alive; None if oneDNN packed the weight in another layout.
    """
    if not hasattr(torch.ops.mkldnn, "data_ptr"):
        return None
    outputs, inputs = weight_OI.shape
    nbytes = torch.ops.mkldnn._nbytes(packed)
    flat = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(torch.ops.mkldnn.data_ptr(packed)))
    name = str(weight_OI.dtype).removeprefix("torch.")
    for width in (BLOCK, BLOCK_WITH_AMX) if name == "bfloat16" else (BLOCK,):
        blocks = -(-outputs // width)
        if nbytes % (blocks * width * 4) == 0 and nbytes >= blocks * width * inputs * weight_OI.itemsize:
            weight = BlockWeight(name, flat.reshape(blocks, -1), outputs, inputs, width, packed)
            if _equal(weight, weight_OI):
                return weight
    return None


def pack_blocks(weight_OI: Tensor, width: int = BLOCK) -> BlockWeight:
    """Lay out a float32 or bfloat16 weight."""
    outputs, inputs = weight_OI.shape
    per_word = 4 // weight_OI.itemsize
    steps = -(-inputs // per_word)
    memory = aligned_zeros(-(-outputs // width), steps * width * 4)
    weight = BlockWeight(str(weight_OI.dtype).removeprefix("torch."), memory, outputs, inputs, width)
    for index, block in enumerate(weight.words):
        rows = weight_OI[index * width : (index + 1) * width].detach()
        padded = torch.nn.functional.pad(rows, (0, steps * per_word - inputs)).contiguous()
        block[:, : len(rows)] = as_array(padded).view(block.dtype).T
    return weight


def aligned_zeros(blocks: int, block_bytes: int) -> np.ndarray:
    """Zeros, uint8 [blocks, block_bytes], that begin at a cache line."""
    raw = np.zeros(blocks * block_bytes + CACHE_LINE, np.uint8)
    first = -raw.ctypes.data % CACHE_LINE
    return raw[first : first + blocks * block_bytes].reshape(blocks, block_bytes)


def _equal(weight: BlockWeight, weight_OI: Tensor) -> bool:
    """Compare block by block, without a second copy of the whole weight. Only bits that are read are compared."""
    plain_OI = as_array(weight_OI.detach())
    for index, block in enumerate(weight.words):
        expected = plain_OI[index * weight.width : (index + 1) * weight.width]
        rows = np.ascontiguousarray(block.T).view(plain_OI.dtype)[: len(expected), : weight.inputs]
        if not np.array_equal(rows, expected):
            return False
    return True
