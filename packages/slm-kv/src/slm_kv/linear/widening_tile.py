"""Scratch memory in which a quantised weight is widened and multiplied by oneDNN, one tile of outputs after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slm_kv.compiled.block_weights import view_onednn
from slm_kv.linear.block_formats import BLOCK, QuantisedWeight
from slm_kv.linear.packed_linear import ROWS_HINT
from slm_kv.optional_imports import import_optional

TILE_BYTES = 3 << 20  # a share of the last-level cache; smaller tiles mean more calls


class WideningTile:
    """A weight packed by oneDNN, to be overwritten with one tile after another.

    Without numba, or if oneDNN packs in an unknown layout, each tile is widened by torch and packed in each call, which
    is slower.

    Args:
        inputs: I, a multiple of 32.
        dtype: float32 or bfloat16: that of the products.
        outputs: O of the layers. A tile that does not divide it well would multiply outputs that nothing reads.
    """

    @torch.inference_mode(False)  # otherwise the tile could not be used outside of inference mode
    def __init__(self, inputs: int, dtype: torch.dtype, outputs: int) -> None:
        self.dtype = dtype
        largest, blocks = max(1, TILE_BYTES // (inputs * BLOCK * dtype.itemsize)), -(-outputs // BLOCK)
        self.blocks = -(-blocks // -(-blocks // largest))  # tiles of the same size
        example = torch.arange(self.outputs * inputs).remainder(251).to(dtype).view(self.outputs, inputs)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(example, ROWS_HINT)
        self._widening: Any = import_optional("compiled.quantised.widening")
        self._view = view_onednn(self._packed, example) if self._widening else None

    @property
    def outputs(self) -> int:
        """T, the outputs of a tile."""
        return self.blocks * BLOCK

    def multiply(self, x_NI: Tensor, weight: QuantisedWeight, first: int, bias_T: Tensor | None) -> Tensor:
        """Multiply by the blocks from ``first`` on, as many as a tile has, to [N, T] or fewer.

        With fewer blocks than the tile has, the outputs after theirs are meaningless.
        """
        end = min(first + self.blocks, len(weight.blocks))
        if self._view is None:
            dense = weight.dense(first, end).to(self.dtype)
            return torch.nn.functional.linear(x_NI, dense, None if bias_T is None else bias_T[: len(dense)])
        self._widening.widen(weight.view(), first, end, self._view)
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, bias_T, "none", [], "")
