"""What this CPU supports, for tests that only some CPUs can run."""

import torch
from torch import nn

from slm_kv import pack

DTYPES = (torch.bfloat16, torch.float32)


_UNSUPPORTED = set() if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {torch.bfloat16}  # bfloat16 needs AVX-512
ONEDNN_DTYPES = [dtype for dtype in DTYPES if dtype not in _UNSUPPORTED]
PACKED_DTYPES = [dtype for dtype in DTYPES if pack(nn.Sequential(nn.Linear(2, 2, dtype=dtype))).layers]


def _has_readable_rows(dtype: torch.dtype) -> bool:
    model = nn.Sequential(nn.Linear(64, 64, dtype=dtype))
    pack(model)
    return bool(getattr(model[0], "has_rows", False))


# With AMX, oneDNN lays bfloat16 weights out in another way, and tied embeddings keep their weight.
READABLE_DTYPES = [dtype for dtype in PACKED_DTYPES if _has_readable_rows(dtype)]
