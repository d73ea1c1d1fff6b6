"""A bfloat16 linear layer for CPUs without bfloat16 arithmetic: most without AVX-512, laptops among them.

The weight stays in 16 bits, so that few rows read half as much memory as in float32. For more rows, one tile of the
weight at a time is widened to float32 and multiplied by oneDNN while it is in the CPU's cache. A layer of 768 x 3,072
takes 250 microseconds for one row and 3,380 for 32; torch's own takes 520 and 15,100 (EPYC with AVX2, one thread).

Shapes: N rows, I inputs, O outputs, T outputs of a tile, B blocks of 64 outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slm_kv.compiled import products
from slm_kv.compiled.block_weights import BLOCK, BlockWeight, pack_blocks, view_onednn
from slm_kv.linear.packed_linear import ROWS_HINT, PackedLayer

TILE_BYTES = 3 << 20  # of float32: a share of the last-level cache; smaller tiles mean more calls
UPPER_HALF = -1 << 16  # as a bit mask
MAX_FEW_ROWS = 16  # for more rows widening is faster than compiled.products


class Tile:
    """Scratch memory of about 3 MB: a float32 weight packed by oneDNN, to be overwritten with one tile after another.

    ``usable`` is False if oneDNN packs weights in an unknown layout.

    Args:
        inputs: I, an even number.
    """

    @torch.inference_mode(False)  # otherwise the tile could not be used outside of inference mode
    def __init__(self, inputs: int) -> None:
        self.outputs = max(1, TILE_BYTES // (inputs * BLOCK * 4)) * BLOCK
        example_TI = torch.arange(self.outputs * inputs, dtype=torch.float32).view(self.outputs, inputs)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(example_TI, ROWS_HINT)
        blocks = view_onednn(self._packed, example_TI)
        self.usable = blocks is not None
        if blocks is not None:  # [B, I / 2, 2, 64] int32, the bits of each float32
            self._bits = torch.from_numpy(blocks.words[:, :inputs]).view(torch.int32).unflatten(1, (-1, 2))

    def multiply(self, x_NI: Tensor, pairs: Tensor, bias_T: Tensor | None) -> Tensor:
        """Widen blocks into the tile and multiply, all in float32, to [N, T].

        Args:
            x_NI: The input.
            pairs: [B, I / 2, 64] int32, two bfloat16 each: the tile's blocks. With fewer blocks than the tile has, the
                outputs after theirs are meaningless.
            bias_T: The bias, if any.
        """
        torch.bitwise_left_shift(pairs, 16, out=self._bits[: len(pairs), :, 0])
        torch.bitwise_and(pairs, UPPER_HALF, out=self._bits[: len(pairs), :, 1])
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, bias_T, "none", [], "")


class WidenedLinear(PackedLayer):
    """``x @ weight.T + bias`` in bfloat16, summed in float32 and rounded once.

    Args:
        weight_OI: The weight, which need not be kept.
        bias_O: The bias, if any.
        tile: A usable tile for I inputs. Layers that are not called at the same time may share it.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, tile: Tile) -> None:
        super().__init__(weight_OI, bias_O)
        self._tile = tile
        self.block_weight: BlockWeight = pack_blocks(weight_OI)
        self._bias = None if bias_O is None else nn.functional.pad(bias_O.float(), (0, -len(bias_O) % tile.outputs))
        self._numpy_bias = None if self._bias is None else self._bias.numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of the weight, padded to whole blocks; without the shared tile."""
        return self.block_weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O].

        Raises:
            KVError: a gradient is required.
        """
        self._refuse_gradients(x)
        rows = x.numel() // self.in_features
        if 0 < rows <= MAX_FEW_ROWS:
            return products.multiply(x, self.block_weight, self._numpy_bias)
        x_NI, out_NO = x.reshape(rows, self.in_features).float(), x.new_empty(rows, self.out_features)
        pairs, size = torch.from_numpy(self.block_weight.words).view(torch.int32), self._tile.outputs
        for first in range(0, self.out_features, size):
            bias_T = None if self._bias is None else self._bias[first : first + size]
            y_NT = self._tile.multiply(x_NI, pairs[first // BLOCK : (first + size) // BLOCK], bias_T)
            out_NO[:, first : first + size] = y_NT[:, : self.out_features - first]
        return out_NO.view(*x.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """Unpack the weight [O, I], bit for bit."""
        return self.block_weight.dense()
