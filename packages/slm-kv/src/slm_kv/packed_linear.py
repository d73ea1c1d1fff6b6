"""A linear layer whose weight lies as oneDNN reads it best.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slm_kv.errors import KVError

HINT = 16  # rows that the layout is made for: from 8 on the hint makes no difference to any number of rows


class PackedLinear(nn.Module):
    """``x @ weight.T + bias`` over a prepacked copy of ``weight_OI``, which need not be kept.

    For inference on a CPU: it has no parameters, and a gradient ends at it. ``padded_rows``: fewer rows than this,
    but more than a quarter of it, are filled up with zeros, where that is faster.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, padded_rows: int = 0) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.dtype, self.padded_rows = weight_OI.dtype, padded_rows
        self.bias = bias_O
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), HINT)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise KVError("a packed model only infers: unpack it before training")
        rows = x.numel() // self.in_features
        if self.padded_rows // 4 < rows < self.padded_rows:
            return self._padded(x.reshape(rows, -1), rows).view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")

    def _padded(self, x_NI: Tensor, rows: int) -> Tensor:
        filled = nn.functional.pad(x_NI, (0, 0, 0, self.padded_rows - rows))
        return torch.ops.mkldnn._linear_pointwise(filled, self._packed, self.bias, "none", [], "")[:rows]

    def weight(self) -> Tensor:
        """The weight [O, I] again, bit for bit."""
        return self._packed.to_dense()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"
