"""A linear layer over a weight that oneDNN prepacked.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from slm_kv.compiled.block_weights import BlockWeight, view_onednn
from slm_kv.errors import KVError
from slm_kv.optional_imports import import_optional

# The number of input rows that oneDNN is asked to pack for. For one row it does not repack the weight; for 8 rows and
# more it always chooses the same layout, which works for any number of rows.
ROWS_HINT = 16


class Weightless(nn.Module):
    """A layer without a readable ``weight``, because its weight is packed, in this layer or in another."""

    def __getattr__(self, name: str) -> Any:
        """Raise an error with a remedy for ``weight``, which PEFT merges into and other code reads."""
        if name == "weight":
            raise AttributeError("a packed layer has no weight to read or to merge into: unpack, or close the engine")
        return super().__getattr__(name)


class PackedLayer(Weightless, ABC):
    """Base class of packed linear layers: for inference on a CPU, without parameters, refusing gradients."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.dtype, self.trainable = weight_OI.dtype, False
        self.float32_rows = False  # whether ``rows`` are in float32, for other layers in float32
        self.bias = bias_O
        self._packed: Tensor
        self.block_weight: BlockWeight | None = None  # the packed weight, where compiled products can read it

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return int(torch.ops.mkldnn._nbytes(self._packed))

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """Unpack the weight [O, I]."""

    @property
    def has_rows(self) -> bool:
        """Whether ``rows`` is available."""
        return self.block_weight is not None

    def rows(self, ids: Tensor) -> Tensor:
        """Copy rows ``ids`` [N], each from 0 to O - 1, of the weight to [N, I], bit for bit. Requires ``has_rows``."""
        rows_NI = self._read_rows(ids)
        return rows_NI.float() if self.float32_rows else rows_NI

    def _read_rows(self, ids: Tensor) -> Tensor:
        assert self.block_weight is not None, "rows of a layer without has_rows"
        return self.block_weight.rows(ids)

    def _refuse_gradients(self, x: Tensor) -> None:
        if torch.is_grad_enabled() and x.requires_grad:
            raise KVError("a packed model is for inference only: unpack it before training")

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"


class PackedLinear(PackedLayer):
    """``x @ weight.T + bias`` with a prepacked copy of the weight.

    Up to ``products.max_rows`` rows are multiplied by ``compiled.products``, if numba is installed and the layout is
    known.

    Args:
        weight_OI: The weight, which need not be kept.
        bias_O: The bias, if any.
        padded_rows: Inputs with fewer rows than this, but more than a quarter, are padded with zeros to this number of
            rows; 0 for no padding. ``pack`` sets it on CPUs where padding is faster.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, padded_rows: int = 0) -> None:
        super().__init__(weight_OI, bias_O)
        self.padded_rows = padded_rows
        self._packed = _reordered(weight_OI)
        products = import_optional("compiled.products")
        self.block_weight = view_onednn(self._packed, weight_OI) if products else None
        if products and self.block_weight is None and torch.get_num_threads() > 1:
            self._packed = _reordered(weight_OI, threads=1)
            self.block_weight = view_onednn(self._packed, weight_OI)
        self._max_few_rows = products.max_rows(self.block_weight) if self.block_weight else 0
        self._bias = None if bias_O is None else bias_O.float().numpy()

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O] in the dtype of ``x``. Slow in another dtype than that of the weight.

        Raises:
            KVError: a gradient is required.
        """
        self._refuse_gradients(x)
        if x.dtype is not self.dtype:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return nn.functional.linear(x, self.dense_weight().to(x.dtype), bias)
        rows = x.numel() // self.in_features
        if 0 < rows <= self._max_few_rows:
            product: Tensor = import_optional("compiled.products").multiply(x, self.block_weight, self._bias)
            return product
        if self.padded_rows // 4 < rows < self.padded_rows:
            return self._padded(x.reshape(rows, -1), rows).view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")

    def _padded(self, x_NI: Tensor, rows: int) -> Tensor:
        padded = nn.functional.pad(x_NI, (0, 0, 0, self.padded_rows - rows))
        return torch.ops.mkldnn._linear_pointwise(padded, self._packed, self.bias, "none", [], "")[:rows]

    def dense_weight(self) -> Tensor:
        """Unpack the weight [O, I], bit for bit."""
        return self._packed.to_dense()


def _reordered(weight_OI: Tensor, threads: int = 0) -> Tensor:
    """oneDNN's packed weight, as it is for so many threads; 0: for torch's number.

    For more than two threads oneDNN packs some float32 weights in blocks of other sizes than 64, which compiled
    products do not read. It multiplies by what was packed for one thread on any number.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), ROWS_HINT)
    finally:
        torch.set_num_threads(before)
    return packed
