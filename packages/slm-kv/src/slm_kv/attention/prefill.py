"""Chunks of prompts, by torch's own attention: as the reference does, without a gather where none is needed.

Shapes: N rows of the step, H heads, G heads of keys and values, D dimensions of a head.
"""

from __future__ import annotations

from torch import Tensor

from slm_kv.attention.step_batch import StepBatch
from slm_kv.attention.reference import attend_chunk, causal


def attend_chunks(
    query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch, scale: float, out_NHD: Tensor
) -> None:
    """Attention of the step's chunks, whose keys and values are stored by now, into their rows of ``out_NHD``."""
    for chunk in batch.chunks:
        rows = slice(chunk.first, chunk.last)
        if chunk.past:
            out_NHD[rows] = attend_chunk(query_NHD, chunk, layer, batch, scale)
        else:  # all that it sees came with it
            key_GLD, value_GLD = key_NGD[rows].transpose(0, 1), value_NGD[rows].transpose(0, 1)
            out_NHD[rows] = causal(query_NHD[rows], key_GLD, value_GLD, 0, scale)
