"""A linear layer whose weight lies as oneDNN reads it best, or in 8 bits.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slm_kv.errors import KVError
from slm_kv.optional_imports import optional

HINT = 16  # rows that the layout is made for: from 8 on the hint makes no difference to any number of rows
FEW = 8  # rows: below it oneDNN has no fast kernel of 8 bits for some widths, 256 and 1024 among them
SIGN = 128  # zero of the inputs: signed ones fall to the reference kernel where a CPU has VNNI and no AMX


class Weightless(nn.Module):
    """Its weight lies packed, here or in another layer."""

    def __getattr__(self, name: str) -> Any:
        """As ever, but for ``weight``: PEFT merges into it, and others look at it."""
        if name == "weight":
            raise AttributeError("a packed layer has no weight to read or to merge into: unpack, or close the engine")
        return super().__getattr__(name)


class PackedLayer(Weightless, ABC):
    """What all of them have in common. For inference on a CPU: no parameters, and a gradient ends at it."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.dtype, self.trainable = weight_OI.dtype, False
        self.bias = bias_O
        self._packed: Tensor
        self._blocks: np.ndarray | None = None  # where ``few_rows`` can read the weight

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as it lies."""
        return int(torch.ops.mkldnn._nbytes(self._packed))

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight [O, I] again."""

    @property
    def gives_rows(self) -> bool:
        """Whether ``rows`` can be called."""
        return self._blocks is not None

    def rows(self, ids: Tensor) -> Tensor:
        """Rows ``ids`` [N], each from 0 to O - 1, of the weight: a copy [N, I], bit for bit. For ``gives_rows``."""
        found = torch.from_numpy(optional("compiled.few_rows").rows_of(self._blocks, ids.numpy(), self.in_features))
        return found.view(self.dtype)

    def _refuse_gradients(self, x: Tensor) -> None:
        if torch.is_grad_enabled() and x.requires_grad:
            raise KVError("a packed model only infers: unpack it before training")

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"


class PackedLinear(PackedLayer):
    """``x @ weight.T + bias`` over a prepacked copy of ``weight_OI``, which need not be kept. ``padded_rows``: fewer
    rows than this, but more than a quarter of it, are filled up with zeros, where that is faster. Up to
    ``few_rows.ROWS`` rows on one thread are multiplied by ``few_rows``, where numba is there and knows the layout."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, padded_rows: int = 0) -> None:
        super().__init__(weight_OI, bias_O)
        self.padded_rows = padded_rows
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), HINT)
        few_rows = optional("compiled.few_rows")
        self._blocks = few_rows.blocks_of(self._packed, weight_OI) if few_rows else None
        self._bias = np.empty(0, np.float32) if bias_O is None else bias_O.float().numpy()

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]. Raises KVError where a gradient is asked for."""
        self._refuse_gradients(x)
        rows = x.numel() // self.in_features
        few_rows = optional("compiled.few_rows")
        if self._blocks is not None and 0 < rows <= few_rows.ROWS and torch.get_num_threads() == 1:
            return few_rows.linear(x, self._blocks, self._bias, self.out_features)
        if self.padded_rows // 4 < rows < self.padded_rows:
            return self._padded(x.reshape(rows, -1), rows).view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")

    def _padded(self, x_NI: Tensor, rows: int) -> Tensor:
        filled = nn.functional.pad(x_NI, (0, 0, 0, self.padded_rows - rows))
        return torch.ops.mkldnn._linear_pointwise(filled, self._packed, self.bias, "none", [], "")[:rows]

    def dense_weight(self) -> Tensor:
        """The weight [O, I] again, bit for bit."""
        return self._packed.to_dense()


class Int8Linear(PackedLayer):
    """A weight of 8 bits with a scale for each output, times inputs rounded to 8 bits with a scale for each row:
    what shares a batch changes nothing, bit for bit. Half a step of rounding on either side."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__(weight_OI, bias_O)
        steps, scale_O1 = rounded(weight_OI.detach().float().contiguous())  # qlinear_prepack does not see strides
        self._scale_O = scale_O1.flatten()
        self._zero_O = torch.zeros(self.out_features, dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(steps, [HINT, self.in_features])

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O] in the dtype of ``x``. Raises KVError where a gradient is asked for."""
        self._refuse_gradients(x)
        steps, scale_N1 = rounded(x.reshape(-1, self.in_features).float())
        rows = len(steps)
        if rows < FEW:
            steps = nn.functional.pad(steps, (0, 0, 0, FEW - rows))
        unsigned = steps.view(torch.uint8) ^ SIGN  # 128 more
        y = torch.ops.onednn.qlinear_pointwise(
            *(unsigned, 1.0, SIGN, self._packed, self._scale_O, self._zero_O, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )[:rows].mul_(scale_N1)
        y = y if self.bias is None else y.add_(self.bias)
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """The rounded weight [O, I]."""
        return (self._packed.to_dense().t() * self._scale_O[:, None]).to(self.dtype)


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """``values`` [rows, columns] in int8 steps, symmetric, and the size [rows, 1] of a row's step."""
    scale = values.abs().amax(1, keepdim=True).div_(127).clamp_(min=torch.finfo(torch.float32).tiny)
    return (values / scale).round_().to(torch.int8), scale


def int8_is_exact() -> bool:
    """Whether this CPU sums products of 8 bits without overflow; old ones cut them at 16."""
    layer = Int8Linear(torch.full((16, 256), -1.0), None)
    return torch.equal(layer(torch.ones(3, 256)).round(), torch.full((3, 16), -256.0))
