"""Attention of rows to the pages of their sequences."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from slm_kv.compiled.addresses import float32_at, int32_at, uint16_at, word
from slm_kv.compiled.elements import to_float32
from slm_kv.compiled.operations.rotary import Pages
from slm_kv.compiled.operations.shares import address_of, float_of, floats_at
from slm_kv.compiled.paged_attention import NO_SINK, cap_scores, softmax_weights
from slm_kv.compiled.program import (
    LENGTHS,
    OPERATION_OPTIONS,
    PAGES,
    PAGES_STRIDE,
    ROWS,
    SIGNATURE,
    Buffer,
    Instruction,
    float_bits,
)


def attend(
    qkv: Buffer,
    out: Buffer,
    pages: Pages,
    *,
    heads: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
) -> Instruction:
    """Attend with the rotated queries of ``qkv`` to the pages of each row's sequence.

    A barrier must separate it from ``rotate_and_store``.

    Args:
        qkv: [R, >= heads * D]; queries come first.
        out: [R, heads * D].
        pages: The layer's keys and values.
        heads: Heads of queries, a multiple of the pages' G.
        scale: Of the scores.
        window: Only the last ``window`` tokens are read; 0: all.
        softcap: Scores s become softcap * tanh(s / softcap); 0: they stay.
        sinks: Logits [heads] that take part in the softmax; None for none.
    """
    options = (float_bits(scale), window, float_bits(softcap), address_of(sinks))
    return (_attend.address, *qkv.words, *out.words, *pages, heads, *options)


@njit(inline="always")
def first_element(pages: np.ndarray, token: int, page_size: int, groups: int, group: int, dim: int) -> np.int64:
    """The index, among all elements of a layer's pages, of the first one of head ``group`` of a token."""
    slot = np.int64(pages[token // page_size]) * page_size + token % page_size
    return (slot * groups + group) * dim


@njit(inline="always")
def compute_scores(
    query: np.ndarray,
    keys: np.ndarray,
    pages: np.ndarray,
    begin: int,
    length: int,
    page_size: int,
    groups: int,
    group: int,
    scores: np.ndarray,
) -> None:
    """Write the products of ``query`` [D] and keys ``begin`` to ``length`` - 1 to ``scores`` [length - begin]."""
    dim = len(query)
    for t in range(begin, length):
        start = first_element(pages, t, page_size, groups, group, dim)
        dot = np.float32(0.0)
        for d in range(dim):
            dot += query[d] * to_float32(keys[start + d])
        scores[t - begin] = dot


@njit(inline="always")
def weighted_sum(
    weights: np.ndarray,
    values: np.ndarray,
    pages: np.ndarray,
    begin: int,
    length: int,
    page_size: int,
    groups: int,
    group: int,
    out: np.ndarray,
) -> None:
    """Write values ``begin`` to ``length`` - 1, summed by ``weights`` [length - begin], to ``out`` [D]."""
    dim = len(out)
    out[:] = np.float32(0.0)
    for t in range(begin, length):
        start = first_element(pages, t, page_size, groups, group, dim)
        weight = weights[t - begin]
        for d in range(dim):
            out[d] += weight * to_float32(values[start + d])


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _attend(context: int, arguments: int, thread: int, threads: int) -> None:
    keys, values, itemsize, page_size = (word(arguments, 6), word(arguments, 7), word(arguments, 8), word(arguments, 9))
    groups, dim, heads = word(arguments, 10), word(arguments, 11), word(arguments, 12)
    scale = float_of(word(arguments, 13))
    window, softcap, sinks = word(arguments, 14), float_of(word(arguments, 15)), word(arguments, 16)
    rows, query = word(context, ROWS), np.empty(dim, np.float32)
    stride, lengths = word(context, PAGES_STRIDE), carray(int32_at(word(context, LENGTHS)), (rows,))
    for unit in range(rows * heads * thread // threads, rows * heads * (thread + 1) // threads):
        row, head = unit // heads, unit % heads
        length, group = np.int64(lengths[row]), head // (heads // groups)
        begin = max(0, length - window) if window > 0 else 0
        pages = carray(int32_at(word(context, PAGES) + 4 * row * stride), (stride,))
        q = floats_at(word(arguments, 0) + row * word(arguments, 1) + 4 * head * dim, dim)
        out = floats_at(word(arguments, 3) + row * word(arguments, 4) + 4 * head * dim, dim)
        for d in range(dim):
            query[d] = q[d] * scale
        scores = np.empty(length - begin, np.float32)
        if itemsize == 4:
            flat = carray(float32_at(keys), (1,))
            compute_scores(query, flat, pages, begin, length, page_size, groups, group, scores)
        else:
            halves = carray(uint16_at(keys), (1,))
            compute_scores(query, halves, pages, begin, length, page_size, groups, group, scores)
        if softcap > 0:
            cap_scores(scores, softcap)
        total = softmax_weights(scores, floats_at(sinks, heads)[head] if sinks else NO_SINK)
        if itemsize == 4:
            flat = carray(float32_at(values), (1,))
            weighted_sum(scores, flat, pages, begin, length, page_size, groups, group, out)
        else:
            halves = carray(uint16_at(values), (1,))
            weighted_sum(scores, halves, pages, begin, length, page_size, groups, group, out)
        for d in range(dim):
            out[d] /= total
