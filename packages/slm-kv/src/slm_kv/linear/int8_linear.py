"""A linear layer with weights and inputs in 8 bits.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slm_kv.linear.packed_linear import ROWS_HINT, PackedLayer

# Fewer rows are padded: for some widths (256 and 1,024 among them) oneDNN has no fast 8-bit kernel below 8 rows and
# takes a reference kernel, a hundred times slower.
MIN_ROWS = 8
# Inputs are passed as unsigned integers with a zero point of 128. On CPUs with VNNI but without AMX, signed inputs fall
# back to oneDNN's reference kernel: 2,227 instead of 1.5 ms for 512 rows of 768 x 256.
ZERO_POINT = 128


class Int8Linear(PackedLayer):
    """``x @ weight.T + bias`` with a scale for each output of the weight and for each row of the input.

    A row's result does not depend on the other rows, bit for bit. Weights and inputs are rounded by at most half a
    quantization step.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__(weight_OI, bias_O)
        # contiguous() first: qlinear_prepack ignores strides (seen in torch 2.13: 929 times the perplexity).
        steps, scale_O1 = quantize_rows(weight_OI.detach().float().contiguous())
        self._scale_O = scale_O1.flatten()
        self._zero_O = torch.zeros(self.out_features, dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(steps, [ROWS_HINT, self.in_features])

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O] in the dtype of ``x``.

        Raises:
            KVError: a gradient is required.
        """
        self._refuse_gradients(x)
        steps, scale_N1 = quantize_rows(x.reshape(-1, self.in_features).float())
        rows = len(steps)
        if rows < MIN_ROWS:
            steps = nn.functional.pad(steps, (0, 0, 0, MIN_ROWS - rows))
        unsigned = steps.view(torch.uint8) ^ ZERO_POINT  # flipping the sign bit adds 128
        y = torch.ops.onednn.qlinear_pointwise(
            *(unsigned, 1.0, ZERO_POINT, self._packed, self._scale_O, self._zero_O, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )[:rows].mul_(scale_N1)
        y = y if self.bias is None else y.add_(self.bias)
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """The rounded weight [O, I]."""
        return (self._packed.to_dense().t() * self._scale_O[:, None]).to(self.dtype)


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round ``values`` [rows, columns] symmetrically to int8; return the integers and each row's scale [rows, 1]."""
    scale = values.abs().amax(1, keepdim=True).div_(127).clamp_(min=torch.finfo(torch.float32).tiny)
    return (values / scale).round_().to(torch.int8), scale


def int8_is_exact() -> bool:
    """Return whether this CPU sums 8-bit products exactly: without VNNI the sums saturate at 16 bits."""
    layer = Int8Linear(torch.full((16, 256), -1.0), None)
    return torch.equal(layer(torch.ones(3, 256)).round(), torch.full((3, 16), -256.0))
