"""Attention of prompt chunks by torch's scaled dot product attention.

Shapes: N rows of the step, H heads, G heads of keys and values, D dimensions of a head.
"""

from __future__ import annotations

from torch import Tensor

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.reference import attend_chunk, causal_attention
from slm_kv.attention.step_batch import StepBatch


def attend_chunks(
    query_NHD: Tensor,
    key_NGD: Tensor,
    value_NGD: Tensor,
    layer: int,
    batch: StepBatch,
    options: LayerAttention,
    out_NHD: Tensor,
) -> None:
    """Write the attention of the step's chunks to their rows of ``out_NHD``; keys and values are already stored."""
    for chunk in batch.chunks:
        rows = slice(chunk.first, chunk.last)
        if chunk.past:
            out_NHD[rows] = attend_chunk(query_NHD, chunk, layer, batch, options)
        else:  # the rows attend only to each other, so no pages need to be gathered
            key_GLD, value_GLD = key_NGD[rows].transpose(0, 1), value_NGD[rows].transpose(0, 1)
            out_NHD[rows] = causal_attention(query_NHD[rows], key_GLD, value_GLD, 0, options)
