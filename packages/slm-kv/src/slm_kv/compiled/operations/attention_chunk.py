"""Attention of heads that share their keys to one chunk of a row's tokens, and the sum of all chunks.

Shapes: N heads that share their keys, T tokens of the chunk, D dimensions of a head.
"""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, njit

from slm_kv.compiled.addresses import int32_at, word
from slm_kv.compiled.attention_tiles import MAX_TILE_HEADS, QUAD, number_at, score_tile, sum_tile
from slm_kv.compiled.elements import NUMBA_OPTIONS, exp
from slm_kv.compiled.operations.shares import floats_at
from slm_kv.compiled.paged_attention import cap_scores, exponentials, largest
from slm_kv.compiled.program import PAGES, PAGES_STRIDE
from slm_kv.compiled.vectors import LANES

EXTRA = 2  # numbers beside a chunk's sums: the largest score, and the sum of the weights


@njit(inline="always")
def fill_offsets(
    offsets: np.ndarray, context: int, row: int, begin: int, end: int, page_size: int, nbytes: int
) -> None:
    """Write where tokens ``begin`` to ``end`` - 1 of a row are, each of ``nbytes``; the last one repeats."""
    pages = carray(int32_at(word(context, PAGES) + 4 * row * word(context, PAGES_STRIDE)), (end // page_size + 1,))
    page, slot, last = begin // page_size, begin % page_size, np.int64(0)
    start = np.int64(pages[page]) * page_size
    for index in range(end - begin):
        if slot == page_size:
            page, slot = page + 1, 0
            start = np.int64(pages[page]) * page_size
        last = (start + slot) * nbytes
        offsets[index] = last
        slot += 1
    offsets[end - begin :] = last


@njit(inline="always")
def score_loop(
    itemsize: int, offsets: np.ndarray, keys: int, queries: np.ndarray, scores: np.ndarray, tokens: int
) -> None:
    """``score_tile`` for any D."""
    for token in range(tokens):
        for head in range(len(queries)):
            dot = np.float32(0.0)
            for d in range(queries.shape[1]):
                dot += queries[head, d] * number_at(itemsize, keys + offsets[token] + d * itemsize)
            scores[head, token] = dot


@njit(inline="always")
def sum_loop(
    itemsize: int, offsets: np.ndarray, values: int, weights: np.ndarray, tokens: int, out: np.ndarray
) -> None:
    """``sum_tile`` for any D."""
    out[:] = np.float32(0.0)
    for token in range(tokens):
        for head in range(len(out)):
            for d in range(out.shape[1]):
                value = number_at(itemsize, values + offsets[token] + d * itemsize)
                out[head, d] += weights[head, token] * value


@njit(inline="always")
def compute_scores(
    itemsize: int, offsets: np.ndarray, keys: int, queries: np.ndarray, scores: np.ndarray, tokens: int
) -> None:
    """Write the products of ``queries`` [N, D] and ``tokens`` keys to ``scores`` [N, T]."""
    heads, dim = queries.shape
    if dim % LANES:
        score_loop(itemsize, offsets, keys, queries, scores, tokens)
        return
    row_bytes, tiles = scores.strides[0], (heads + MAX_TILE_HEADS - 1) // MAX_TILE_HEADS
    at, padded = offsets.ctypes.data, (tokens + QUAD - 1) // QUAD * QUAD
    for tile in range(tiles):
        head = heads * tile // tiles
        count = heads * (tile + 1) // tiles - head
        q, to = queries[head:].ctypes.data, scores[head:].ctypes.data
        if count == 1:
            score_tile(1, itemsize, at, padded, keys, q, dim, to, row_bytes)
        elif count == 2:
            score_tile(2, itemsize, at, padded, keys, q, dim, to, row_bytes)
        elif count == 3:
            score_tile(3, itemsize, at, padded, keys, q, dim, to, row_bytes)
        else:
            score_tile(4, itemsize, at, padded, keys, q, dim, to, row_bytes)


@njit(inline="always")
def sum_values(
    itemsize: int, offsets: np.ndarray, values: int, weights: np.ndarray, tokens: int, out: np.ndarray
) -> None:
    """Write ``tokens`` values, summed by ``weights`` [N, T], to ``out`` [N, D]."""
    heads, dim = out.shape
    if dim % LANES:
        sum_loop(itemsize, offsets, values, weights, tokens, out)
        return
    at, row_bytes, tiles = offsets.ctypes.data, weights.strides[0], (heads + MAX_TILE_HEADS - 1) // MAX_TILE_HEADS
    for tile in range(tiles):
        head = heads * tile // tiles
        count = heads * (tile + 1) // tiles - head
        w, to = weights[head:].ctypes.data, out[head:].ctypes.data
        if count == 1:
            sum_tile(1, itemsize, at, tokens, values, w, row_bytes, dim, to)
        elif count == 2:
            sum_tile(2, itemsize, at, tokens, values, w, row_bytes, dim, to)
        elif count == 3:
            sum_tile(3, itemsize, at, tokens, values, w, row_bytes, dim, to)
        else:
            sum_tile(4, itemsize, at, tokens, values, w, row_bytes, dim, to)


@njit(inline="always")
def attend_chunk(
    itemsize: int,
    offsets: np.ndarray,
    keys: int,
    values: int,
    queries: np.ndarray,
    softcap: np.float32,
    scores: np.ndarray,
    tokens: int,
    sums: np.ndarray,
    extra: np.ndarray,
) -> None:
    """Attend with ``queries`` [N, D], which are scaled, to the first ``tokens`` of a chunk.

    ``scores`` [N, T] is scratch memory, T a multiple of 4. ``sums`` [N, D] become the sums of values, by weights that
    are relative to the largest score; ``extra`` [N, 2] that score, and the sum of the weights.
    """
    compute_scores(itemsize, offsets, keys, queries, scores, tokens)
    for head in range(len(queries)):
        if softcap > 0:
            cap_scores(scores[head, :tokens], softcap)
        extra[head, 0] = largest(scores[head, :tokens])
        extra[head, 1] = exponentials(scores[head, :tokens], extra[head, 0])
    sum_values(itemsize, offsets, values, scores, tokens, sums)


@njit(**NUMBA_OPTIONS)
def add_chunks(sums: int, maxima: int, chunks: int, heads: int, sink: np.float32, out: np.ndarray) -> None:
    """Write a head's result [D].

    ``sums`` and ``maxima``: the addresses of the head's numbers of the first of the chunks, which are ``heads`` apart.
    """
    dim, top = len(out), sink
    for chunk in range(chunks):
        top = max(top, floats_at(maxima + 4 * EXTRA * chunk * heads, EXTRA)[0])
    total = sink if sink != sink else exp(sink - top)
    out[:] = np.float32(0.0)
    for chunk in range(chunks):
        extra = floats_at(maxima + 4 * EXTRA * chunk * heads, EXTRA)
        part = floats_at(sums + 4 * chunk * heads * dim, dim)
        weight = exp(extra[0] - top)
        total += weight * extra[1]
        for d in range(dim):
            out[d] += weight * part[d]
    for d in range(dim):
        out[d] /= total
