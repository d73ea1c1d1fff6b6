"""A linear layer over a weight that oneDNN prepacked.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slm_kv.compiled.weight_blocks import Blocks, gather_rows, view_blocks
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
        self.bias = bias_O
        self._packed: Tensor
        self._blocks: Blocks | None = None  # the packed weight, where ``compiled.few_rows`` can read it

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
        return self._blocks is not None

    def rows(self, ids: Tensor) -> Tensor:
        """Copy rows ``ids`` [N], each from 0 to O - 1, of the weight to [N, I], bit for bit. Requires ``has_rows``."""
        assert self._blocks is not None, "rows of a layer without has_rows"
        return torch.from_numpy(gather_rows(self._blocks, ids.numpy(), self.in_features)).view(self.dtype)

    def _refuse_gradients(self, x: Tensor) -> None:
        if torch.is_grad_enabled() and x.requires_grad:
            raise KVError("a packed model is for inference only: unpack it before training")

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"


class PackedLinear(PackedLayer):
    """``x @ weight.T + bias`` with a prepacked copy of the weight.

    Up to ``few_rows.MAX_ROWS`` rows on one thread are multiplied by ``compiled.few_rows``, if numba is installed and
    the layout is known.

    Args:
        weight_OI: The weight, which need not be kept.
        bias_O: The bias, if any.
        padded_rows: Inputs with fewer rows than this, but more than a quarter, are padded with zeros to this number of
            rows; 0 for no padding. ``pack`` sets it on CPUs where padding is faster.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, padded_rows: int = 0) -> None:
        super().__init__(weight_OI, bias_O)
        self.padded_rows = padded_rows
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), ROWS_HINT)
        self._blocks = view_blocks(self._packed, weight_OI) if import_optional("compiled.few_rows") else None
        self._bias = np.empty(0, np.float32) if bias_O is None else bias_O.float().numpy()

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O].

        Raises:
            KVError: a gradient is required.
        """
        self._refuse_gradients(x)
        rows = x.numel() // self.in_features
        few_rows = import_optional("compiled.few_rows")
        if self._blocks is not None and 0 < rows <= few_rows.MAX_ROWS and torch.get_num_threads() == 1:
            return few_rows.linear(x, self._blocks, self._bias, self.out_features)
        if self.padded_rows // 4 < rows < self.padded_rows:
            return self._padded(x.reshape(rows, -1), rows).view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")

    def _padded(self, x_NI: Tensor, rows: int) -> Tensor:
        padded = nn.functional.pad(x_NI, (0, 0, 0, self.padded_rows - rows))
        return torch.ops.mkldnn._linear_pointwise(padded, self._packed, self.bias, "none", [], "")[:rows]

    def dense_weight(self) -> Tensor:
        """Unpack the weight [O, I], bit for bit."""
        return self._packed.to_dense()
