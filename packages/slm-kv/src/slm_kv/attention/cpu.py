"""Paged attention on a CPU: decode rows by compiled code that reads pages in place, chunks by torch's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slm_kv.attention import kernels
from slm_kv.attention.batch import Chunk, StepBatch
from slm_kv.attention.reference import attend_chunk, causal
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
    for chunk in batch.chunks:
        out_NHD[chunk.first : chunk.last] = _attend_chunk(query_NHD, key_NGD, value_NGD, chunk, layer, batch, scale)
    return out_NHD


def _attend_chunk(
    query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, chunk: Chunk, layer: int, batch: StepBatch, scale: float
) -> Tensor:
    if chunk.past:
        return attend_chunk(query_NHD, chunk, layer, batch, scale)
    rows = slice(chunk.first, chunk.last)  # all that it sees came with it: nothing to gather
    return causal(query_NHD[rows], key_NGD[rows].transpose(0, 1), value_NGD[rows].transpose(0, 1), 0, scale)
