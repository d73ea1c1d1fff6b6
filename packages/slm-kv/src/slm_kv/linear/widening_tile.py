"""Scratch memory in which a quantised weight is widened and multiplied by oneDNN, one tile of outputs after another."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slm_kv.linear.block_formats import BLOCK, ZERO, QuantisedWeight
from slm_kv.linear.packed_linear import ROWS_HINT
from slm_kv.optional_imports import import_optional

TILE_BYTES = 3 << 20  # a share of the last-level cache; smaller tiles mean more calls
WIDTHS = (BLOCK, BLOCK // 2)  # outputs that oneDNN keeps together; the second for bfloat16 with AMX


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
        self._widening: Any = import_optional("compiled.widening")
        self._memory = _view(self._packed, example) if self._widening else None

    @property
    def outputs(self) -> int:
        """T, the outputs of a tile."""
        return self.blocks * BLOCK

    def multiply(self, x_NI: Tensor, weight: QuantisedWeight, first: int, bias_T: Tensor | None) -> Tensor:
        """Multiply by the blocks from ``first`` on, as many as a tile has, to [N, T] or fewer.

        With fewer blocks than the tile has, the outputs after theirs are meaningless.
        """
        end = min(first + self.blocks, len(weight.blocks))
        if self._memory is None:
            dense = weight.dense(first, end).to(self.dtype)
            return torch.nn.functional.linear(x_NI, dense, None if bias_T is None else bias_T[: len(dense)])
        self._widen(weight, first, end)
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, bias_T, "none", [], "")

    def _widen(self, weight: QuantisedWeight, first: int, end: int) -> None:
        assert self._memory is not None
        words = weight.blocks[first:end].numpy().view(np.uint32)
        scales = weight.scales(first, end).float()
        offsets = weight.minima(first, end).float() if weight.format == "q41" else scales * -ZERO[weight.format]
        widen = self._widening.widen_pairs if self.dtype is torch.bfloat16 else self._widening.widen_numbers
        widen(words, scales.numpy(), offsets.numpy(), weight.format == "q8", self._memory)


def _view(packed: Tensor, example: Tensor) -> np.ndarray | None:
    """View oneDNN's memory as [T / W, I / 2, W] uint32 or [T / 64, I, 64] float32; None in an unknown layout."""
    if not hasattr(torch.ops.mkldnn, "data_ptr"):
        return None
    words = (ctypes.c_uint32 * (torch.ops.mkldnn._nbytes(packed) // 4)).from_address(torch.ops.mkldnn.data_ptr(packed))
    memory = np.ctypeslib.as_array(words)
    expected = example.view(torch.int32).numpy().view(np.uint32)  # [T, I / 2] or [T, I]
    if memory.size != expected.size:
        return None
    for width in WIDTHS if example.dtype is torch.bfloat16 else WIDTHS[:1]:
        view = memory.reshape(-1, expected.shape[1], width)
        if np.array_equal(view.transpose(0, 2, 1).reshape(expected.shape), expected):
            return view if example.dtype is torch.bfloat16 else view.view(np.float32)
    return None
