"""A linear layer whose weight is held in blocks of 8 or 4 bits.

Few rows are multiplied by compiled code that reads the blocks; for more rows the weight is widened tile by tile and
multiplied by oneDNN.

Shapes: N rows, I inputs, O outputs, T outputs of a tile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slm_kv.compiled.block_weights import BlockWeight
from slm_kv.linear.block_formats import BLOCK, GROUP, QuantisedWeight
from slm_kv.linear.packed_linear import PackedLayer
from slm_kv.linear.widening_tile import WideningTile
from slm_kv.optional_imports import import_optional


class QuantisedLinear(PackedLayer):
    """``x @ weight.T + bias`` with a quantised weight.

    Args:
        weight: The blocks.
        bias_O: The bias, if any.
        dtype: That of the plain weight, in which ``rows`` and ``dense_weight`` are.
        tile: For I inputs. Layers that are not called at the same time may share it.
    """

    def __init__(self, weight: QuantisedWeight, bias_O: Tensor | None, dtype: torch.dtype, tile: WideningTile) -> None:
        super().__init__(torch.empty(weight.outputs, weight.inputs, dtype=dtype, device="meta"), bias_O)
        self.weight_blocks = weight
        self.rounds_inputs = False
        self._tile = tile
        self._exact_tile: WideningTile | None = None
        self._numpy_bias = None if bias_O is None else bias_O.float().numpy()
        self._products: Any = import_optional("compiled.products")
        self.block_weight = self._view_blocks()
        self._max_few_rows = self._products.max_rows(self.block_weight) if self.block_weight else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks; without the shared tile."""
        return self.weight_blocks.nbytes

    @property
    def has_rows(self) -> bool:
        """Rows can always be read."""
        return True

    def _read_rows(self, ids: Tensor) -> Tensor:
        return self.weight_blocks.rows(ids).to(self.dtype)

    def widen_exactly(self, tile: WideningTile | None) -> None:
        """Widen the weight to float32 in ``tile``; None ends this."""
        self._exact_tile = tile

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O] in the dtype of ``x``.

        Raises:
            KVError: a gradient is required.
        """
        self._refuse_gradients(x)
        x_NI = x.reshape(-1, self.in_features)
        if 0 < len(x_NI) <= self._max_few_rows and not self.rounds_inputs and not self._exact_tile:
            product: Tensor = self._products.multiply(x, self.block_weight, self._numpy_bias)
            return product
        if self.rounds_inputs:
            x_NI = round_inputs(x_NI)
        return self._widened(x_NI, self._exact_tile or self._tile).to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _view_blocks(self) -> BlockWeight | None:
        """The blocks for compiled products, if these know the format."""
        weight = self.weight_blocks
        return weight.view() if self._products and (weight.format, BLOCK) in self._products.OPERATIONS else None

    def _widened(self, x_NI: Tensor, tile: WideningTile) -> Tensor:
        x_NI, size, bias = x_NI.to(tile.dtype), tile.outputs, None
        if self.bias is not None:
            bias = nn.functional.pad(self.bias.to(tile.dtype), (0, -self.out_features % size))
        if self.out_features <= size:
            return tile.multiply(x_NI, self.weight_blocks, 0, bias)[:, : self.out_features]
        out_NO = x_NI.new_empty(len(x_NI), self.out_features)
        for first in range(0, self.out_features, size):
            bias_T = None if bias is None else bias[first : first + size]
            y_NT = tile.multiply(x_NI, self.weight_blocks, first // BLOCK, bias_T)
            out_NO[:, first : first + size] = y_NT[:, : self.out_features - first]
        return out_NO

    def dense_weight(self) -> Tensor:
        """The rounded weight [O, I]."""
        weight = torch.empty(self.out_features, self.in_features, dtype=self.dtype)
        for first in range(0, self.out_features, self._tile.outputs):
            rows = weight[first : first + self._tile.outputs]
            block = first // BLOCK
            rows.copy_(self.weight_blocks.dense(block, block + self._tile.blocks)[: len(rows)])
        return weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, format={self.weight_blocks.format}"


def round_inputs(x_NI: Tensor) -> Tensor:
    """Round groups of 32 inputs to 8 bits, as the product of few rows does."""
    groups = x_NI.float().unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.where(scale == 0, groups, (groups / scale).round_() * scale)).flatten(-2).to(x_NI.dtype)


@contextmanager
def rounding_inputs(modules: Iterable[nn.Module]) -> Generator[None]:
    """Return a context in which quantised layers round their inputs for any number of rows, as they do for few."""
    layers = [module for module in modules if isinstance(module, QuantisedLinear)]
    for layer in layers:
        layer.rounds_inputs = True
    try:
        yield
    finally:
        for layer in layers:
            layer.rounds_inputs = False


@contextmanager
def widening_exactly(modules: Iterable[nn.Module], *, float32_rows: bool = True) -> Generator[None]:
    """Return a context in which quantised layers widen their weights to float32, for any number of rows.

    ``float32_rows``: embeddings that are tied to packed layers return float32, for layers whose weights are in float32.
    """
    packed = [module for module in modules if isinstance(module, PackedLayer)]
    layers = [layer for layer in packed if isinstance(layer, QuantisedLinear)]
    tiles: dict[tuple[int, int], WideningTile] = {}
    for packed_layer in packed:
        packed_layer.float32_rows = float32_rows
    for layer in layers:
        shape = layer.in_features, layer.out_features
        if shape not in tiles:
            tiles[shape] = WideningTile(shape[0], torch.float32, shape[1])
        layer.widen_exactly(tiles[shape])
    try:
        yield
    finally:
        for layer in layers:
            layer.widen_exactly(None)
        for packed_layer in packed:
            packed_layer.float32_rows = False


def product_dtype() -> torch.dtype:
    """The dtype in which tiles are multiplied: bfloat16 where the CPU has instructions for it."""
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32
