"""Decode attention over pages: the query of each sequence reads that sequence's pages in place.

It needs no gather and no padding, and a sequence's result does not depend on the others in the batch. Arithmetic is in
float32 for any dtype of the pages.

Shapes: N rows of the step, S decode rows, P pages of the longest table, H heads, G heads of keys and values (H is a
multiple of G), D dimensions of a head.
"""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import njit, types

from slm_kv.compiled.elements import NUMBA_OPTIONS, exp, from_float32, tanh, to_float32
from slm_kv.compiled.prefetching import prefetch_run

# Distance between the token that is read and the one that is prefetched. Pages are scattered, and a CPU's own
# prefetcher cannot predict them. One layer of 32 sequences of 160 tokens takes 600 to 660 instead of 1,350
# microseconds in bfloat16 (EPYC with AVX512-BF16).
PREFETCH_BYTES = 12288
# The head dimension of most small models. LLVM unrolls the loops over a constant, which saves 5 to 10 % of the time.
COMMON_DIM = 64
NO_SINK = np.float32(-np.inf)


def compile_for(*arguments):
    """Compile for float32 and bfloat16 when the module is imported, and for no other types.

    ``rows``, ``pages`` and ``out`` stand for arrays of that element type. Rows may have any strides (layout A): without
    explicit signatures, numba would compile again for each new kind of stride in the middle of a text.
    """
    element_arrays = {"rows": (3, "A"), "pages": (4, "C"), "out": (3, "C")}

    def signature(element):
        return types.void(
            *(types.Array(element, *element_arrays[name]) if name in element_arrays else name for name in arguments)
        )

    return njit([signature(types.float32), signature(types.uint16)], **NUMBA_OPTIONS)


@njit(**NUMBA_OPTIONS)
def cap_scores(scores, softcap):
    """Replace scores s by softcap * tanh(s / softcap)."""
    for t in range(len(scores)):
        scores[t] = softcap * tanh(scores[t] / softcap)


@njit(**NUMBA_OPTIONS)
def largest(scores):
    """The largest score. A NaN may get lost."""
    top = scores[0]
    for t in range(len(scores)):
        top = max(top, scores[t])
    return top


@njit(**NUMBA_OPTIONS)
def exponentials(scores, top):
    """Replace scores by exp(score - top) and return their sum; NaN if a score is NaN."""
    total = np.float32(0.0)
    for t in range(len(scores)):
        total += scores[t] * np.float32(0.0)  # max() and exp() may lose a NaN: this keeps it in the sum
    for t in range(len(scores)):
        scores[t] = exp(scores[t] - top)
    for t in range(len(scores)):
        total += scores[t]
    return total


@njit(**NUMBA_OPTIONS)
def softmax_weights(scores, sink):
    """Replace scores by exp(score - maximum) and return their sum; NaN if a score is NaN.

    The logit ``sink`` takes part in the maximum and the sum; -infinity for none.
    """
    top = max(largest(scores), sink)
    return exponentials(scores, top) + (sink if sink != sink else exp(sink - top))


@compile_for("rows", "rows", "pages", "pages", types.int64[::1])
def write(key, value, keys, values, slots):
    """Write each row of ``key`` and ``value`` [N, G, D] to its slot of the pages [pages, page_size, G, D]."""
    page_size = keys.shape[1]
    for row in range(key.shape[0]):
        page, slot = slots[row] // page_size, slots[row] % page_size
        for group in range(key.shape[1]):
            for d in range(key.shape[2]):
                keys[page, slot, group, d] = key[row, group, d]
                values[page, slot, group, d] = value[row, group, d]


@njit(inline="always")
def prefetch_token(flat, page, next_page, slot, page_size, width):
    """Prefetch the ``width`` elements of a token: ``slot`` of ``page``, or of ``next_page`` if past its end."""
    token = page * page_size + slot if slot < page_size else next_page * page_size + slot - page_size
    prefetch_run(flat, token * width, width)


@njit(inline="always")
def following_page(pages, first, length, page_size):
    """Return the page of ``pages`` [P] after the one that begins with token ``first``, or the last page itself."""
    after = first + page_size
    return pages[(after if after < length else first) // page_size]


@njit(inline="always")
def compute_scores(queries, keys, pages, begin, length, ahead, dim, scores):
    """Write the products of ``queries`` [H, ``dim``] and keys ``begin`` to ``length`` - 1 to ``scores`` [H, length]."""
    heads, page_size, groups = len(queries), keys.shape[1], keys.shape[2]
    group_size, flat = heads // groups, keys.reshape(-1)
    for first in range(0, length, page_size):
        page, next_page = pages[first // page_size], following_page(pages, first, length, page_size)
        for slot in range(0 if first else begin, min(page_size, length - first)):
            prefetch_token(flat, page, next_page, slot + ahead, page_size, groups * dim)
            for head in range(heads):
                dot = np.float32(0.0)
                for d in range(dim):
                    dot += queries[head, d] * to_float32(keys[page, slot, head // group_size, d])
                scores[head, first + slot] = dot


@njit(inline="always")
def sum_values(weights, values, pages, begin, length, ahead, dim, out):
    """Write values ``begin`` to ``length`` - 1, summed by ``weights`` [H, length], to ``out`` [H, ``dim``]."""
    heads, page_size, groups = len(out), values.shape[1], values.shape[2]
    group_size, flat = heads // groups, values.reshape(-1)
    out[:] = np.float32(0.0)
    for first in range(0, length, page_size):
        page, next_page = pages[first // page_size], following_page(pages, first, length, page_size)
        for slot in range(0 if first else begin, min(page_size, length - first)):
            prefetch_token(flat, page, next_page, slot + ahead, page_size, groups * dim)
            for head in range(heads):
                weight = weights[head, first + slot]
                for d in range(dim):
                    out[head, d] += weight * to_float32(values[page, slot, head // group_size, d])


@njit(inline="always")
def attend(queries, keys, values, pages, begin, length, softcap, sinks, dim, scores, totals, out):
    """Attend to tokens ``begin`` to ``length`` - 1 of ``pages`` [P]; ``begin`` is in the first page.

    ``queries`` [H, ``dim``] are read, ``scores`` [H, >= length] is scratch memory. ``out`` [H, ``dim``] becomes the sum
    of values by weights that add up to ``totals`` [H], together with the weight of the sink.
    """
    page_size, width = keys.shape[1], keys.shape[2] * dim
    ahead = min(page_size, max(1, PREFETCH_BYTES // (width * keys.itemsize)))
    compute_scores(queries, keys, pages, begin, length, ahead, dim, scores)
    for head in range(len(queries)):
        if softcap > 0:
            cap_scores(scores[head, begin:length], softcap)
        totals[head] = softmax_weights(scores[head, begin:length], sinks[head] if len(sinks) else NO_SINK)
    sum_values(scores, values, pages, begin, length, ahead, dim, out)


@compile_for(
    "rows",
    "pages",
    "pages",
    types.int32[:, ::1],
    types.int32[::1],
    types.float32,
    types.int64,
    types.float32,
    types.float32[::1],
    "out",
)
def decode(q, keys, values, pages, lengths, scale, window, softcap, sinks, out):
    """Attend with S queries, each over its own pages. Memory is read in order: token by token, all heads of a token.

    ``q`` and ``out`` [S, H, D]; ``keys`` and ``values`` [pages, page_size, G, D]; ``pages`` [S, P] int32;
    ``lengths`` [S] int32: the tokens of each sequence, the query's own included. The query attends to the last
    ``window`` of them, and no other is read; 0: to all. ``softcap`` is 0 for none, ``sinks`` [H] is empty for none.
    """
    heads, dim, page_size = q.shape[1], q.shape[2], keys.shape[1]
    longest = np.int64(lengths.max())
    scores = np.empty((heads, min(longest, window + page_size) if window > 0 else longest), np.float32)
    queries, sums = np.empty((heads, dim), np.float32), np.empty((heads, dim), np.float32)
    totals = np.empty(heads, np.float32)
    for row in range(q.shape[0]):
        for head in range(heads):
            for d in range(dim):
                queries[head, d] = to_float32(q[row, head, d]) * scale
        length = np.int64(lengths[row])
        begin = max(0, length - window) if window > 0 else 0
        skipped = begin // page_size  # pages before the window
        table, begin, length = pages[row, skipped:], begin - skipped * page_size, length - skipped * page_size
        if dim == COMMON_DIM:
            attend(queries, keys, values, table, begin, length, softcap, sinks, COMMON_DIM, scores, totals, sums)
        else:
            attend(queries, keys, values, table, begin, length, softcap, sinks, dim, scores, totals, sums)
        for head in range(heads):
            for d in range(dim):
                out[row, head, d] = from_float32(sums[head, d] / totals[head], out[row, head, d])
