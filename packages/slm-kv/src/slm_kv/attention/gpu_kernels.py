"""Triton kernels of paged decode attention.

The tokens of a sequence are divided into parts, so that a few sequences with long contexts keep a whole GPU busy
(Flash-Decoding, https://pytorch.org/blog/flash-decoding). Each program of ``decode_kernel`` handles one part and one
head of keys and values, with all query heads that share it, so that each key and value is read once. It reads the pages
in a single pass, with a running softmax in float32 for any dtype of the pages (Milakov and Gimelshein,
https://arxiv.org/abs/1805.02867). ``reduce_kernel`` combines the parts of the sequences that have several.

How a sequence is divided depends on its own length only, so that a row's result does not depend on the other rows.

Shapes: S decode rows, P pages of the longest table, H heads, G heads of keys and values, D dimensions of a head, J
parts of the longest sequence. In the kernels Q, C, L and M are powers of two: Q is the number of query heads that share
a head of keys and values, C the number of dimensions (both rounded up), L the number of tokens in a tile, and M the
largest number of parts.
"""

# Triton parses the kernels' source and accepts no annotation but constexpr.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl


# What changes from step to step: the strides, and the alignment of tables and lengths, which are parts of one tensor.
# Specialized on it, the kernel would be recompiled in the middle of a text.
@triton.jit(
    do_not_specialize=["row_stride", "head_stride", "table_stride"],
    do_not_specialize_on_alignment=["tables", "lengths"],
)
def decode_kernel(
    query,
    keys,
    values,
    out,
    partial_acc,
    partial_max,
    partial_sum,
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
    PART_TOKENS: tl.constexpr,
    Q: tl.constexpr,
    C: tl.constexpr,
    L: tl.constexpr,
    M: tl.constexpr,
):
    """Attend for one part of a sequence and one head of keys and values.

    ``query`` [S, H, D] may have any strides; all other tensors are contiguous. ``tables`` [S, P] int32 are each
    sequence's pages, ``lengths`` [S] int32 the number of its tokens, the query's own included. The query attends to the
    last ``window`` of them, and no other is read. ``sinks`` [H] is used with HAS_SINKS only. GROUP_SIZE is H / G.

    The attention of a sequence of one part is written to ``out`` [S, H, D]. Of each other part, the maximum score and
    the sum of weights are written to ``partial_max`` and ``partial_sum`` [S, H, J], and the weighted sum of values to
    ``partial_acc`` [S, H, J, D], all float32.
    """
    row, group, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    length = tl.load(lengths + row)
    first_token = tl.maximum(length - window, 0)
    part_tokens, parts = divide(length - first_token, PART_TOKENS, M)
    if part >= parts:
        return

    dims_C, members_Q = tl.arange(0, C), tl.arange(0, Q)
    heads_Q = group * GROUP_SIZE + members_Q
    mask_Q = members_Q < GROUP_SIZE
    mask_QC = mask_Q[:, None] & (dims_C < DIM)[None, :]
    offsets_QC = row * row_stride + heads_Q[:, None] * head_stride + dims_C[None, :] * dim_stride
    query_QC = tl.load(query + offsets_QC, mask=mask_QC, other=0.0).to(tl.float32) * scale

    max_Q, sum_Q = tl.full((Q,), float("-inf"), tl.float32), tl.zeros((Q,), tl.float32)
    if HAS_SINKS:  # a sink is a first token without a value
        sink_Q = tl.load(sinks + heads_Q, mask=mask_Q, other=0.0).to(tl.float32)
        max_Q = tl.where(part == 0, sink_Q, max_Q)
        sum_Q += tl.where(part == 0, 1.0, 0.0)
    acc_QC = tl.zeros((Q, C), tl.float32)
    start = first_token + part * part_tokens
    end = tl.minimum(start + part_tokens, length)
    for first in range(start, end, L):
        tokens_L = first + tl.arange(0, L)
        seen_L = tokens_L < end
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

    outputs_Q = row * tl.num_programs(1) * GROUP_SIZE + heads_Q
    if parts == 1:
        out_QC = (acc_QC / sum_Q[:, None]).to(out.dtype.element_ty)
        tl.store(out + outputs_Q[:, None] * DIM + dims_C[None, :], out_QC, mask=mask_QC)
    else:
        partials_Q = outputs_Q * tl.num_programs(2) + part
        tl.store(partial_max + partials_Q, max_Q, mask=mask_Q)
        tl.store(partial_sum + partials_Q, sum_Q, mask=mask_Q)
        tl.store(partial_acc + partials_Q[:, None] * DIM + dims_C[None, :], acc_QC, mask=mask_QC)


@triton.jit(do_not_specialize=["max_parts"], do_not_specialize_on_alignment=["lengths"])
def reduce_kernel(
    partial_acc,
    partial_max,
    partial_sum,
    out,
    lengths,
    window,
    max_parts,
    DIM: tl.constexpr,
    PART_TOKENS: tl.constexpr,
    C: tl.constexpr,
    M: tl.constexpr,
    TILE: tl.constexpr,
):
    """Combine the parts of one sequence and query head, if there are several. ``max_parts`` is J.

    The order of the sums does not depend on J: parts that a sequence does not have weigh 0.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + row)
    _, parts = divide(length - tl.maximum(length - window, 0), PART_TOKENS, M)
    if parts == 1:
        return
    output = row * tl.num_programs(1) + head
    dims_C, parts_M = tl.arange(0, C), tl.arange(0, M)
    max_M = tl.load(partial_max + output * max_parts + parts_M, mask=parts_M < parts, other=float("-inf"))
    sum_M = tl.load(partial_sum + output * max_parts + parts_M, mask=parts_M < parts, other=0.0)
    max_score = tl.max(max_M, axis=0)
    weight_sum = tl.sum(sum_M * tl.exp(max_M - max_score), axis=0)
    acc_C = tl.zeros((C,), tl.float32)
    for first in range(0, parts, TILE):
        parts_T = first + tl.arange(0, TILE)
        seen_T = parts_T < parts
        partials_T = output * max_parts + parts_T
        weight_T = tl.exp(tl.load(partial_max + partials_T, mask=seen_T, other=float("-inf")) - max_score)
        mask_TC = seen_T[:, None] & (dims_C < DIM)[None, :]
        acc_TC = tl.load(partial_acc + partials_T[:, None] * DIM + dims_C[None, :], mask=mask_TC, other=0.0)
        acc_C += tl.sum(weight_T[:, None] * acc_TC, axis=0)
    tl.store(out + output * DIM + dims_C, (acc_C / weight_sum).to(out.dtype.element_ty), mask=dims_C < DIM)


@triton.jit
def divide(tokens, PART_TOKENS: tl.constexpr, M: tl.constexpr):
    """The length of a sequence's parts and their number: PART_TOKENS, or the multiple of it that gives at most M."""
    tokens = tl.maximum(tokens, 1)
    part_tokens = PART_TOKENS * tl.cdiv(tokens, PART_TOKENS * M)
    return part_tokens, tl.cdiv(tokens, part_tokens)


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
