"""Paged attention in plain torch: gather each sequence's pages, then scaled dot product attention.

Slow and easy to read. Tests compare the other backends with it, and devices without a compiled backend use it.

Shapes: N rows of the step, T rows of a chunk, L keys, H heads, G heads of keys and values (H is a multiple of G),
E = H / G, D dimensions of a head, P pages, S slots in a page.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.step_batch import Chunk, StepBatch

# attend(query_NHD, key_NGD, value_NGD, layer, batch, options) stores the step's keys and values and returns [N, H, D].
Attend = Callable[[Tensor, Tensor, Tensor, int, StepBatch, LayerAttention], Tensor]


def attend(
    query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch, options: LayerAttention
) -> Tensor:
    """Store the step's keys and values, then attend. Returns [N, H, D]."""
    write(key_NGD, value_NGD, layer, batch)
    out_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    _, pages, lengths = batch.arrays
    for row, length in enumerate(lengths.tolist()):
        chunk = Chunk(row, row + 1, length - 1, pages[row], batch.decode_pages[row].long())
        out_NHD[row : row + 1] = attend_chunk(query_NHD, chunk, layer, batch, options)
    for chunk in batch.chunks:
        out_NHD[chunk.first : chunk.last] = attend_chunk(query_NHD, chunk, layer, batch, options)
    return out_NHD


def write(key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch) -> None:
    """Write each row's key and value to its slot."""
    batch.storage.keys[layer].flatten(0, 1).index_copy_(0, batch.slots, key_NGD)
    batch.storage.values[layer].flatten(0, 1).index_copy_(0, batch.slots, value_NGD)


def gather(pages_PSGD: Tensor, chunk: Chunk, first: int) -> Tensor:
    """Gather the chunk's tokens from ``first`` on to [G, L, D]: a view if their pages are neighbours.

    The host decides which from its own page numbers: it would wait for a number from the device.
    """
    page_size = pages_PSGD.shape[1]
    needed, skipped = slice(first // page_size, -(-chunk.length // page_size)), first // page_size * page_size
    numbers = chunk.page_numbers[needed]
    start, stop = int(numbers[0]), int(numbers[0]) + len(numbers)
    if np.array_equal(numbers, np.arange(start, stop)):
        tokens_LGD = pages_PSGD[start:stop].flatten(0, 1)
    else:
        tokens_LGD = pages_PSGD.index_select(0, chunk.pages[needed]).flatten(0, 1)
    return tokens_LGD[first - skipped : chunk.length - skipped].transpose(0, 1)


def attend_chunk(query_NHD: Tensor, chunk: Chunk, layer: int, batch: StepBatch, options: LayerAttention) -> Tensor:
    """Compute the attention of one chunk's rows, each over the tokens before it and itself. Returns [T, H, D]."""
    first = options.first_key(chunk.past)  # of those that the first row attends to
    key_GLD = gather(batch.storage.keys[layer], chunk, first)
    value_GLD = gather(batch.storage.values[layer], chunk, first)
    return causal_attention(query_NHD[chunk.first : chunk.last], key_GLD, value_GLD, chunk.past - first, options)


def causal_attention(
    query_THD: Tensor, key_GLD: Tensor, value_GLD: Tensor, past: int, options: LayerAttention
) -> Tensor:
    """Compute causal attention: row i attends to key ``past`` + i and those before it. Returns [T, H, D]."""
    if options.softcap is not None or options.sinks is not None:
        return softmax_attention(query_THD, key_GLD, value_GLD, past, options)
    rows, heads = query_THD.shape[:2]
    # is_causal aligns the diagonal with the first key.
    is_causal = not past and (options.window is None or rows <= options.window)
    out_HTD = scaled_dot_product_attention(
        query_THD.transpose(0, 1)[None],
        key_GLD[None],
        value_GLD[None],
        attn_mask=None if is_causal or rows == 1 else visible_keys(rows, past, options.window, query_THD.device),
        is_causal=is_causal and rows > 1,
        scale=options.scale,
        enable_gqa=heads != key_GLD.shape[0],
    )
    return out_HTD[0].transpose(0, 1)


def softmax_attention(
    query_THD: Tensor, key_GLD: Tensor, value_GLD: Tensor, past: int, options: LayerAttention
) -> Tensor:
    """Compute causal attention with a soft cap or sinks, which torch's own does not have. Returns [T, H, D]."""
    (rows, heads, dim), groups = query_THD.shape, len(key_GLD)
    dtype = torch.promote_types(query_THD.dtype, torch.float32)
    query_GETD = query_THD.to(dtype).transpose(0, 1).reshape(groups, heads // groups, rows, dim)
    scores_GETL = query_GETD @ key_GLD.to(dtype)[:, None].transpose(2, 3) * options.scale
    if options.softcap is not None:
        scores_GETL = options.softcap * (scores_GETL / options.softcap).tanh()
    visible_TL = visible_keys(rows, past, options.window, query_THD.device)
    scores_GETL = scores_GETL.masked_fill(~visible_TL, float("-inf"))
    if options.sinks is not None:
        sinks_GET1 = options.sinks.to(dtype).view(groups, -1, 1, 1).expand(-1, -1, rows, 1)
        scores_GETL = torch.cat([scores_GETL, sinks_GET1], dim=3)
    weights_GETL = scores_GETL.softmax(3)[..., : past + rows]
    out_GETD = weights_GETL @ value_GLD.to(dtype)[:, None]
    return out_GETD.flatten(0, 1).transpose(0, 1).to(query_THD.dtype)


def visible_keys(rows: int, past: int, window: int | None, device: torch.device) -> Tensor:
    """Return [T, L]: whether row i attends to each of the ``past`` + T keys."""
    causal_TL = torch.ones(rows, past + rows, dtype=torch.bool, device=device).tril(past)
    return causal_TL if window is None else causal_TL.triu(past + 1 - window)
