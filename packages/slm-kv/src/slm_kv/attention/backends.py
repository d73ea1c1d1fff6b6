"""Choosing the attention backend for a device and dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slm_kv.attention import reference
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.step_batch import StepBatch
from slm_kv.optional_imports import import_optional

# attend(query_NHD, key_NGD, value_NGD, layer, batch, options) stores the step's keys and values and returns [N, H, D].
Attend = Callable[[Tensor, Tensor, Tensor, int, StepBatch, LayerAttention], Tensor]


def select_attention(device: torch.device, dtype: torch.dtype) -> Attend:
    """Return the fastest available paged attention: compiled for a CPU or a CUDA device, else the reference."""
    name = {"cpu": "attention.cpu", "cuda": "attention.gpu"}.get(device.type)
    backend = import_optional(name) if name else None
    return backend.attend if backend and dtype in backend.DTYPES else reference.attend
