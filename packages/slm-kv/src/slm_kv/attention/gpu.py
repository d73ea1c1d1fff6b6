"""Paged attention on a GPU: decode rows by a Triton kernel that reads pages in place, prompt chunks by torch.

Each program of the kernel handles one sequence and one head of keys and values, with all query heads that share it, so
that each key and value is read once. It reads the pages in a single pass, with a running softmax in float32 for any
dtype of the pages (Milakov and Gimelshein, https://arxiv.org/abs/1805.02867). A row's result does not depend on the
other rows, and the decode rows need no synchronisation with the host.

Shapes: N rows of the step, S of them decode rows, P pages of the longest table, H heads, G heads of keys and values,
D dimensions of a head. In the kernel Q, C and L are powers of two: Q is the number of query heads that share a head of
keys and values, C the number of dimensions (both rounded up), and L the number of tokens in a tile.
"""

# Triton parses the kernel's source and accepts no annotation but constexpr.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import next_power_of_2

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.prefill import attend_chunks
from slm_kv.attention.step_batch import StepBatch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE_PRODUCTS = 4096  # Q * L * C: 32 registers for each thread of four warps
MAX_TILE_TOKENS = 128
UNLIMITED = 2**31 - 1  # the window of a layer without one


def attend(
    query_NHD: Tensor, key_NGD: Tensor, value_NGD: Tensor, layer: int, batch: StepBatch, options: LayerAttention
) -> Tensor:
    """Store the step's keys and values, then attend. Returns [N, H, D]."""
    storage, rows = batch.storage, batch.decode_rows
    write(key_NGD, storage.keys[layer], batch.slots)
    write(value_NGD, storage.values[layer], batch.slots)
    out_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    if rows:
        decode(query_NHD[:rows], layer, batch, options, out_NHD[:rows])
    attend_chunks(query_NHD, key_NGD, value_NGD, layer, batch, options, out_NHD)
    return out_NHD


def write(rows_NGD: Tensor, pages_PSGD: Tensor, slots: Tensor) -> None:
    """Write each row to its slot of the pages."""
    pages_PSGD.flatten(0, 1).index_copy_(0, slots, rows_NGD)


def decode(query_SHD: Tensor, layer: int, batch: StepBatch, options: LayerAttention, out_SHD: Tensor) -> None:
    """Write the attention of the decode rows, each over its own pages, to the contiguous ``out_SHD``."""
    keys_PSGD, values_PSGD = batch.storage.keys[layer], batch.storage.values[layer]
    (rows, heads, dim), groups = query_SHD.shape, keys_PSGD.shape[2]
    padded_group_size, padded_dim = next_power_of_2(heads // groups), next_power_of_2(dim)
    with torch.cuda.device_of(query_SHD):  # Triton launches on the current device, not on the tensors'
        decode_kernel[(rows, groups)](
            query_SHD,
            keys_PSGD,
            values_PSGD,
            out_SHD,
            batch.decode_pages,
            batch.decode_lengths,
            query_SHD if options.sinks is None else options.sinks.contiguous(),
            options.scale,
            options.softcap or 0.0,
            options.window or UNLIMITED,
            *query_SHD.stride(),
            batch.decode_pages.stride(0),
            keys_PSGD.stride(1),
            GROUP_SIZE=heads // groups,
            DIM=dim,
            PAGE_SIZE=batch.storage.page_size,
            HAS_SOFTCAP=options.softcap is not None,
            HAS_SINKS=options.sinks is not None,
            Q=padded_group_size,
            C=padded_dim,
            L=min(MAX_TILE_TOKENS, max(1, TILE_PRODUCTS // (padded_group_size * padded_dim))),
        )


# The stride changes from step to step. Specialized on it, the kernel would be recompiled in the middle of a text.
@triton.jit(do_not_specialize=["table_stride"])
def decode_kernel(
    query,
    keys,
    values,
    out,
    tables,
    lengths,
    sinks,
    scale,
    softcap,
    window,
    row_stride,
    head_stride,
    dim_stride,
    table_stride,
    token_stride,
    GROUP_SIZE: tl.constexpr,
    DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    Q: tl.constexpr,
    C: tl.constexpr,
    L: tl.constexpr,
):
    """Attend for one sequence and one head of keys and values.

    ``query`` [S, H, D] may have any strides; all other tensors are contiguous. ``tables`` [S, P] int32 are each
    sequence's pages, ``lengths`` [S] int32 the number of its tokens, the query's own included. The query attends to the
    last ``window`` of them, and no other is read. ``sinks`` [H] is used with HAS_SINKS only. GROUP_SIZE is H / G.
    """
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    dims_C, members_Q = tl.arange(0, C), tl.arange(0, Q)
    heads_Q = group * GROUP_SIZE + members_Q
    mask_QC = (members_Q < GROUP_SIZE)[:, None] & (dims_C < DIM)[None, :]
    offsets_QC = row * row_stride + heads_Q[:, None] * head_stride + dims_C[None, :] * dim_stride
    query_QC = tl.load(query + offsets_QC, mask=mask_QC, other=0.0).to(tl.float32) * scale

    length = tl.load(lengths + row)
    max_Q, sum_Q = tl.full((Q,), float("-inf"), tl.float32), tl.zeros((Q,), tl.float32)
    if HAS_SINKS:  # a sink is a first token without a value
        max_Q = tl.load(sinks + heads_Q, mask=members_Q < GROUP_SIZE, other=0.0).to(tl.float32)
        sum_Q += 1.0
    acc_QC = tl.zeros((Q, C), tl.float32)
    for first in range(tl.maximum(length - window, 0), length, L):
        tokens_L = first + tl.arange(0, L)
        seen_L = tokens_L < length
        slots_L = slots_of(tables + row * table_stride, tokens_L, seen_L, PAGE_SIZE)
        offsets_LC = slots_L[:, None] * token_stride + group * DIM + dims_C[None, :]
        mask_LC = seen_L[:, None] & (dims_C < DIM)[None, :]
        key_LC = tl.load(keys + offsets_LC, mask=mask_LC, other=0.0).to(tl.float32)
        value_LC = tl.load(values + offsets_LC, mask=mask_LC, other=0.0).to(tl.float32)
        score_QL = tl.sum(query_QC[:, None, :] * key_LC[None, :, :], axis=2)
        if HAS_SOFTCAP:
            score_QL = softcap * tanh(score_QL / softcap)
        score_QL = tl.where(seen_L[None, :], score_QL, float("-inf"))
        max_Q, sum_Q, acc_QC = accumulate_tile(score_QL, value_LC, max_Q, sum_Q, acc_QC)

    out_QC = (acc_QC / sum_Q[:, None]).to(out.dtype.element_ty)
    offsets_QC = (row * tl.num_programs(1) * GROUP_SIZE + heads_Q[:, None]) * DIM + dims_C[None, :]
    tl.store(out + offsets_QC, out_QC, mask=mask_QC)


@triton.jit
def slots_of(table, tokens_L, seen_L, PAGE_SIZE: tl.constexpr):
    """The slots of a sequence's tokens: page * page_size + slot. int64, as a pool may hold more than 2^31 numbers."""
    pages_L = tl.load(table + tokens_L // PAGE_SIZE, mask=seen_L, other=0).to(tl.int64)
    return pages_L * PAGE_SIZE + tokens_L % PAGE_SIZE


@triton.jit
def tanh(x):
    """tanh to the precision of float32, which 1 - 2 / (exp(2 x) + 1) lacks near 0 (Cephes, tanhf.c)."""
    z = x * x
    polynomial = ((-0.00570498872745 * z + 0.0206390887954) * z - 0.0537397155531) * z + 0.133314422036
    near_zero = x + x * z * (polynomial * z - 0.333332819422)
    return tl.where(tl.abs(x) < 0.625, near_zero, 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0))


@triton.jit
def accumulate_tile(score_QL, value_LC, max_Q, sum_Q, acc_QC):
    """Add a tile to the running softmax: the maximum score, the sum of weights, and the weighted sum of values.

    Products are sums because ``tl.dot`` needs at least 16 query rows and would round float32 to TF32.
    """
    new_max_Q = tl.maximum(max_Q, tl.max(score_QL, axis=1))
    weight_QL, rescale_Q = tl.exp(score_QL - new_max_Q[:, None]), tl.exp(max_Q - new_max_Q)
    sum_Q = sum_Q * rescale_Q + tl.sum(weight_QL, axis=1)
    acc_QC = acc_QC * rescale_Q[:, None] + tl.sum(weight_QL[:, :, None] * value_LC[None, :, :], axis=1)
    return new_max_Q, sum_Q, acc_QC
