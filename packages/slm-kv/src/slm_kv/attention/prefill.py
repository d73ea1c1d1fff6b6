"""Attention of prompt chunks by torch's scaled dot product attention.

``masked`` takes a mask where a chunk has a past. On a GPU that rules out flash attention, and with grouped heads every
kernel but the slowest: ``unmasked`` says instead that the attention is causal, and ``together`` computes all chunks of
a step in one call. They leave windows, soft caps and sinks to the mask.

Shapes: N rows of the step, T rows of a chunk, L keys, H heads, G heads of keys and values (H is a multiple of G),
D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.reference import causal_attention, gather
from slm_kv.attention.step_batch import StepBatch

# attend_chunks(query_NHD, key_NGD, value_NGD, layer, batch, options, out_NHD) writes the attention of the step's chunks
# to their rows of ``out_NHD``. Keys and values are already stored.
AttendChunks = Callable[[Tensor, Tensor, Tensor, int, StepBatch, LayerAttention, Tensor], None]


def masked(
    query_NHD: Tensor,
    key_NGD: Tensor,
    value_NGD: Tensor,
    layer: int,
    batch: StepBatch,
    options: LayerAttention,
    out_NHD: Tensor,
    *,
    attend: Callable[[Tensor, Tensor, Tensor, int, LayerAttention], Tensor] = causal_attention,
) -> None:
    """Compute one chunk after the other, by ``attend``."""
    for chunk in batch.chunks:
        rows, first = slice(chunk.first, chunk.last), options.first_key(chunk.past)
        if chunk.past:
            key_GLD = gather(batch.storage.keys[layer], chunk, first)
            value_GLD = gather(batch.storage.values[layer], chunk, first)
        else:  # the rows attend only to each other, so no pages need to be gathered
            key_GLD, value_GLD = key_NGD[rows].transpose(0, 1), value_NGD[rows].transpose(0, 1)
        out_NHD[rows] = attend(query_NHD[rows], key_GLD, value_GLD, chunk.past - first, options)


def unmasked(
    query_NHD: Tensor,
    key_NGD: Tensor,
    value_NGD: Tensor,
    layer: int,
    batch: StepBatch,
    options: LayerAttention,
    out_NHD: Tensor,
) -> None:
    """Compute one chunk after the other, without masks where torch has a kernel for that."""
    masked(query_NHD, key_NGD, value_NGD, layer, batch, options, out_NHD, attend=unmasked_attention)


def unmasked_attention(
    query_THD: Tensor, key_GLD: Tensor, value_GLD: Tensor, past: int, options: LayerAttention
) -> Tensor:
    """Compute causal attention: row i attends to key ``past`` + i and those before it. Returns [T, H, D].

    Only the flash kernel shares a head of keys among query heads. For the other one they are copied.
    """
    (rows, heads), groups = query_THD.shape[:2], len(key_GLD)
    if not is_plain(options, past + rows):
        return causal_attention(query_THD, key_GLD, value_GLD, past, options)
    query, key, value = query_THD.transpose(0, 1)[None], key_GLD[None], value_GLD[None]
    # Not is_causal, which torch aligns with the first key and therefore refuses if there is a past.
    if not can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, False, heads != groups)):
        if heads != groups:
            key, value = (tensor.repeat_interleave(heads // groups, 1) for tensor in (key, value))
        if not can_use_efficient_attention(SDPAParams(query, key, value, None, 0.0, False, False)):
            return causal_attention(query_THD, key_GLD, value_GLD, past, options)
    out_HTD: Tensor = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=causal_lower_right(rows, past + rows),  # stands for a mask that is not made
        scale=options.scale,
        enable_gqa=key.shape[1] != heads,
    )
    return out_HTD[0].transpose(0, 1)


def together(
    query_NHD: Tensor,
    key_NGD: Tensor,
    value_NGD: Tensor,
    layer: int,
    batch: StepBatch,
    options: LayerAttention,
    out_NHD: Tensor,
    *,
    varlen_attn: Callable[..., Any],
) -> None:
    """Compute all chunks in one call of ``varlen_attn``, torch's flash attention of sequences of different lengths.

    Its own block tables need pages of at least 256 tokens, so the tokens of chunks with a past are gathered.
    """
    if not batch.chunks:
        return
    spans = batch.chunk_spans
    if not is_plain(options, spans.max_length):
        unmasked(query_NHD, key_NGD, value_NGD, layer, batch, options, out_NHD)
        return
    rows = slice(batch.chunks[0].first, batch.chunks[-1].last)
    if spans.slots is None:
        key_LGD, value_LGD = key_NGD[rows], value_NGD[rows]
    else:
        key_LGD = batch.storage.keys[layer].flatten(0, 1).index_select(0, spans.slots)
        value_LGD = batch.storage.values[layer].flatten(0, 1).index_select(0, spans.slots)
    out_NHD[rows] = varlen_attn(
        query_NHD[rows],
        key_LGD,
        value_LGD,
        spans.row_ends,
        spans.key_ends,
        spans.max_rows,
        spans.max_length,
        scale=options.scale,
        window_size=(-1, 0),  # causal: the last row attends to the last key
        enable_gqa=query_NHD.shape[1] != key_LGD.shape[1],
    )


def is_plain(options: LayerAttention, length: int) -> bool:
    """Whether ``options`` leave causal attention over ``length`` keys as it is, but for its scale."""
    return options.softcap is None and options.sinks is None and (options.window is None or length <= options.window)
