"""Paged attention in plain torch: gather each sequence's pages, then scaled dot product attention.

Slow and easy to read. Tests compare the other backends with it, and devices without a compiled backend use it.

Shapes: N rows of the step, T rows of a chunk, L keys, H heads, G heads of keys and values (H is a multiple of G),
D dimensions of a head, P pages, S slots in a page.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from slm_kv.attention.step_batch import Chunk, StepBatch


def attend(query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch, scale: float) -> Tensor:
    """Store the step's keys and values, then attend. Returns [N, H, D]."""
    write(key_NGD, value_NGD, layer, batch)
    out_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    for row, length in enumerate(batch.decode_lengths.tolist()):
        chunk = Chunk(row, row + 1, length - 1, batch.decode_pages[row].long())
        out_NHD[row : row + 1] = attend_chunk(query_NHD, chunk, layer, batch, scale)
    for chunk in batch.chunks:
        out_NHD[chunk.first : chunk.last] = attend_chunk(query_NHD, chunk, layer, batch, scale)
    return out_NHD


def write(key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch) -> None:
    """Write each row's key and value to its slot."""
    batch.storage.keys[layer].flatten(0, 1).index_copy_(0, batch.slots, key_NGD)
    batch.storage.values[layer].flatten(0, 1).index_copy_(0, batch.slots, value_NGD)


def gather(pages_PSGD: Tensor, pages: Tensor, length: int) -> Tensor:
    """Gather the first ``length`` tokens of ``pages`` to [G, length, D]: a view if the pages are neighbours."""
    needed = pages[: -(-length // pages_PSGD.shape[1])]
    first, last = int(needed[0]), int(needed[-1]) + 1
    if last - first == len(needed) and bool((needed.diff() == 1).all()):
        return pages_PSGD[first:last].flatten(0, 1)[:length].transpose(0, 1)
    return pages_PSGD[needed].flatten(0, 1)[:length].transpose(0, 1)


def attend_chunk(query_NHD: Tensor, chunk: Chunk, layer: int, batch: StepBatch, scale: float) -> Tensor:
    """Compute the attention of one chunk's rows, each over the tokens before it and itself. Returns [T, H, D]."""
    key_GLD = gather(batch.storage.keys[layer], chunk.pages, chunk.length)
    value_GLD = gather(batch.storage.values[layer], chunk.pages, chunk.length)
    return causal_attention(query_NHD[chunk.first : chunk.last], key_GLD, value_GLD, chunk.past, scale)


def causal_attention(query_THD: Tensor, key_GLD: Tensor, value_GLD: Tensor, past: int, scale: float) -> Tensor:
    """Compute causal attention: row i attends to the first ``past`` + i + 1 of L keys. Returns [T, H, D]."""
    rows, heads = query_THD.shape[:2]
    mask = None
    if past and rows > 1:  # is_causal would align the diagonal with the first key
        mask = torch.ones(rows, key_GLD.shape[1], dtype=torch.bool, device=query_THD.device).tril(past)
    out_HTD = scaled_dot_product_attention(
        query_THD.transpose(0, 1)[None],
        key_GLD[None],
        value_GLD[None],
        attn_mask=mask,
        is_causal=not past and rows > 1,
        scale=scale,
        enable_gqa=heads != key_GLD.shape[0],
    )
    return out_HTD[0].transpose(0, 1)
