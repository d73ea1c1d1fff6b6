"""GELU by tanh, GPT-2's, in one pass over memory.

transformers' ``gelu_new`` takes eight; torch's own takes one, and spends it on tanh.

Source: Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv 1606.08415. 1 + tanh(u) is twice the sigmoid of 2 u.
"""

# numba reads the signatures, and takes no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit, types
from torch import Tensor, nn

from slm_kv.compiled.elements import SETTINGS, bits, exp, load, rounded

TWICE_U = np.float32(2 * math.sqrt(2 / math.pi))
CUBE = np.float32(0.044715)
ONE = np.float32(1.0)


class TanhGELU(nn.Module):
    """For inference on a CPU: float32 and bfloat16 on one thread by compiled code, all else by torch."""

    def forward(self, x: Tensor) -> Tensor:
        """The shape and dtype of ``x``."""
        compiled = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and x.is_contiguous()
        if not compiled or torch.get_num_threads() > 1 or (torch.is_grad_enabled() and x.requires_grad):
            return nn.functional.gelu(x, approximate="tanh")
        out = torch.empty_like(x)
        _gelu(bits(x.detach()).reshape(-1), bits(out).reshape(-1))
        return out


def _signature(element):
    return types.void(element[::1], element[::1])


@njit([_signature(types.float32), _signature(types.uint16)], **SETTINGS)
def _gelu(x, out):
    """``out`` [N] = GELU of ``x`` [N], in float32. NaN where ``x`` is."""
    for i in range(len(x)):
        number = load(x[i])
        z = TWICE_U * (number + CUBE * number * number * number)
        small = exp(-abs(z))
        out[i] = rounded(number * (ONE if z >= 0 else small) / (ONE + small), out[i])
