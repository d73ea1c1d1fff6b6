"""Paged attention on a CPU: decode rows by compiled code that reads pages in place, chunks by torch's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slm_kv.attention import kernels
from slm_kv.attention.batch import StepBatch
from slm_kv.attention.chunks import attend_chunks
from slm_kv.elements import bits

DTYPES = (torch.float32, torch.bfloat16)


def attend(query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch, scale: float) -> Tensor:
    """Store the step's keys and values, then attend. Returns [N, H, D]."""
    storage, rows = batch.storage, batch.decode_rows
    keys, values = bits(storage.keys[layer]), bits(storage.values[layer])
    kernels.write(bits(key_NGD), bits(value_NGD), keys, values, batch.slots.numpy())
    out_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    if rows:
        kernels.decode(
            bits(query_NHD[:rows]),
            keys,
            values,
            batch.decode_pages.numpy(),
            batch.decode_lengths.numpy(),
            np.float32(scale),
            bits(out_NHD[:rows]),
        )
    attend_chunks(query_NHD, key_NGD, value_NGD, layer, batch, scale, out_NHD)
    return out_NHD
