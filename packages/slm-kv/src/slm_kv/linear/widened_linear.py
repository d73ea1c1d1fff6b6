"""A bfloat16 weight on a CPU that has no arithmetic for it: most of those without AVX-512, laptops' among them.

It stays in 16 bits, in the blocks that ``few_rows`` reads: a few rows ask half of the memory that float32 would. For
more rows a tile of the weight at a time is widened to float32, where oneDNN has a packed weight of its own, and
multiplied by oneDNN while the cache holds it.

Shapes: N rows, I inputs, O outputs, T outputs of a tile, B blocks of 64 outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from slm_kv.compiled import few_rows
from slm_kv.compiled.elements import bits
from slm_kv.compiled.few_rows import BLOCK
from slm_kv.linear.packed_linear import HINT, PackedLayer

TILE_BYTES = 3 << 20  # of float32: a share of the last cache; smaller tiles mean more calls
UPPER = -1 << 16  # a mask
FEW = 16  # rows; for more of them widening is the faster way


class Tile:
    """Room, of some 3 MB, for a float32 weight of a few blocks by an even number of ``inputs``, packed by oneDNN, to be
    filled again and again. Not ``usable`` where oneDNN lays weights out in a way that is not known."""

    @torch.inference_mode(False)
    def __init__(self, inputs: int) -> None:
        self.outputs = max(1, TILE_BYTES // (inputs * BLOCK * 4)) * BLOCK
        first_TI = torch.arange(self.outputs * inputs, dtype=torch.float32).view(self.outputs, inputs)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(first_TI, HINT)
        memory = few_rows.blocks_of(self._packed, first_TI)
        self.usable = memory is not None
        if memory is not None:  # [B, I / 2, 2, 64] int32, the bits of each float32
            self._bits = torch.from_numpy(memory[:, :inputs]).view(torch.int32).unflatten(1, (-1, 2))

    def product(self, x_NI: Tensor, pairs: Tensor, bias_T: Tensor | None) -> Tensor:
        """[N, T], all float32. ``pairs`` [B, I / 2, 64] int32: a tile's blocks, or fewer; what follows them is void."""
        torch.bitwise_left_shift(pairs, 16, out=self._bits[: len(pairs), :, 0])
        torch.bitwise_and(pairs, UPPER, out=self._bits[: len(pairs), :, 1])
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, bias_T, "none", [], "")


class WidenedLinear(PackedLayer):
    """``x @ weight.T + bias`` of bfloat16, summed in float32 and rounded once. ``weight_OI`` need not be kept.
    ``tile``: a usable one for its inputs, which layers that are not called at the same time may share. ``FEW`` rows
    and less take one thread, however many torch has."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, tile: Tile) -> None:
        super().__init__(weight_OI, bias_O)
        self._tile = tile
        self._blocks: few_rows.Blocks = laid_out(weight_OI)
        self._bias = None if bias_O is None else nn.functional.pad(bias_O.float(), (0, -len(bias_O) % tile.outputs))
        self._numpy_bias = np.empty(0, np.float32) if self._bias is None else self._bias.numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as it lies, filled up to whole blocks; the tile is not counted."""
        return self._blocks.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]. Raises KVError where a gradient is asked for."""
        self._refuse_gradients(x)
        rows = x.numel() // self.in_features
        if 0 < rows <= FEW:
            return few_rows.linear(x, self._blocks, self._numpy_bias, self.out_features)
        x_NI, out_NO = x.reshape(rows, self.in_features).float(), x.new_empty(rows, self.out_features)
        pairs, size = torch.from_numpy(self._blocks).view(torch.int32), self._tile.outputs
        for first in range(0, self.out_features, size):
            bias_T = None if self._bias is None else self._bias[first : first + size]
            y_NT = self._tile.product(x_NI, pairs[first // BLOCK : (first + size) // BLOCK], bias_T)
            out_NO[:, first : first + size] = y_NT[:, : self.out_features - first]
        return out_NO.view(*x.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """The weight [O, I] again, bit for bit."""
        pairs = self._blocks.transpose(0, 2, 1).reshape(-1, self.in_features // 2)[: self.out_features]
        return torch.from_numpy(np.ascontiguousarray(pairs).view(np.uint16)).view(torch.bfloat16)


def laid_out(weight_OI: Tensor) -> few_rows.Blocks:
    """``weight_OI``, bfloat16 of even inputs, as ``few_rows`` reads it: [B, I / 2, 64] uint32."""
    outputs, inputs = weight_OI.shape
    blocks = np.zeros((-(-outputs // BLOCK), inputs // 2, BLOCK), np.uint32)
    for number, block in enumerate(blocks):
        rows = weight_OI[number * BLOCK : (number + 1) * BLOCK].detach().contiguous()
        block[:, : len(rows)] = bits(rows).view(np.uint32).T  # the first of two inputs in the lower half
    return blocks
