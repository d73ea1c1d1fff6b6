"""What the CPU at hand can do, for tests of what only some can."""

import pytest
import torch
from torch import nn

from slm_kv import pack
from slm_kv.linear.packed_linear import int8_is_exact
from slm_kv.linear.packing import _onednn_takes

DTYPES = (torch.bfloat16, torch.float32)
ONEDNN_DTYPES = [dtype for dtype in DTYPES if _onednn_takes(nn.Linear(1, 1, dtype=dtype))]  # bfloat16: with AVX-512
PACKED_DTYPES = [dtype for dtype in DTYPES if pack(nn.Sequential(nn.Linear(2, 2, dtype=dtype))).layers]
needs_int8 = pytest.mark.skipif(not int8_is_exact(), reason="this CPU cuts sums of products of 8 bits (it has no VNNI)")
