"""Paged attention on a CPU: decode rows by a compiled kernel that reads pages in place, prompt chunks by torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.prefill import masked
from slm_kv.attention.step_batch import StepBatch
from slm_kv.compiled import paged_attention
from slm_kv.compiled.arrays import as_array

DTYPES = (torch.float32, torch.bfloat16)
NO_SINKS = np.empty(0, np.float32)


def attend(
    query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch, options: LayerAttention
) -> Tensor:
    """Store the step's keys and values, then attend. Returns [N, H, D]."""
    (keys, values), (slots, pages, lengths) = batch.storage.arrays[layer], batch.arrays
    paged_attention.write(as_array(key_NGD), as_array(value_NGD), keys, values, slots)
    out_NHD, rows = torch.empty_like(query_NHD, memory_format=torch.contiguous_format), len(lengths)
    if rows:
        query, out = as_array(query_NHD), as_array(out_NHD)
        scores = np.float32(options.scale), options.window or 0, np.float32(options.softcap or 0.0), _sinks(options)
        paged_attention.decode(query[:rows], keys, values, pages, lengths, *scores, out[:rows])
    masked(query_NHD, key_NGD, value_NGD, layer, batch, options, out_NHD)
    return out_NHD


def _sinks(options: LayerAttention) -> np.ndarray:
    return NO_SINKS if options.sinks is None else options.sinks.detach().float().contiguous().numpy()


VARIANTS = {"compiled kernels": attend}
