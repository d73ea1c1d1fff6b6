"""Attention of rows to the pages of their sequences.

The tokens of a row are divided into chunks, and the threads share all heads of keys of all chunks: so a single sequence
with few heads uses all threads. The chunks depend on the number of tokens only, and their sums are added in order: a
row's result depends neither on the number of threads nor on other rows.

Shapes: R rows, H heads, G heads of keys and values, N = H / G heads that share one, T tokens of a chunk, D dimensions.
"""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import carray, njit

from slm_kv.compiled.addresses import float32_at, int32_at, word
from slm_kv.compiled.attention_tiles import AHEAD
from slm_kv.compiled.elements import NUMBA_OPTIONS
from slm_kv.compiled.operations.attention_chunk import EXTRA, add_chunks, attend_chunk, fill_offsets
from slm_kv.compiled.operations.rotary import Pages
from slm_kv.compiled.operations.shares import address_of, float_of, floats_at
from slm_kv.compiled.paged_attention import NO_SINK
from slm_kv.compiled.program import (
    BARRIER,
    LENGTHS,
    ROWS,
    Buffer,
    Instruction,
    Workspace,
    compile_operation,
    float_bits,
    wait,
)

CHUNK = 128  # tokens; longer texts have longer chunks
MAX_CHUNKS = 32


def attention_sums(workspace: Workspace, heads: int, dim: int) -> Buffer:
    """Memory for the sums of all chunks, which layers share. It is only used as far as texts are long."""
    return workspace.rows(MAX_CHUNKS * heads * (dim + EXTRA))


def attend(
    qkv: Buffer,
    out: Buffer,
    pages: Pages,
    *,
    heads: int,
    sums: Buffer,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
    by_head: bool = False,
) -> Instruction:
    """Attend with the rotated queries of ``qkv`` to the pages of each row's sequence.

    A barrier must separate it from ``rotate_and_store``.

    Args:
        qkv: [R, >= heads * D]; queries come first, or before the key and value of each head if ``by_head``.
        out: [R, heads * D].
        pages: The layer's keys and values.
        heads: Heads of queries, a multiple of the pages' G.
        sums: Those of ``attention_sums``.
        scale: Of the scores.
        window: Only the last ``window`` tokens are read; 0: all.
        softcap: Scores s become softcap * tanh(s / softcap); 0: they stay.
        sinks: Logits [heads] that take part in the softmax; None for none.
        by_head: As in ``rotate_and_store``.
    """
    operation = compile_operation(_attend_float32 if pages.itemsize == 4 else _attend_bfloat16)
    scores = (float_bits(scale), window, float_bits(softcap), address_of(sinks))
    query_stride = 3 if by_head else 1
    return (
        operation.address,
        *qkv.words,
        *out.words,
        *pages,
        heads,
        *scores,
        sums.address,
        sums.row_bytes,
        query_stride,
    )


@njit(inline="always")
def chunk_tokens(tokens: int) -> int:
    """Tokens in a chunk, a multiple of ``CHUNK``, of a row that attends to ``tokens``."""
    return (tokens + MAX_CHUNKS * CHUNK - 1) // (MAX_CHUNKS * CHUNK) * CHUNK


@njit(inline="always")
def token_range(context: int, row: int, window: int) -> tuple[int, int]:
    """The first token that a row attends to, and the number of all tokens."""
    length = int(carray(int32_at(word(context, LENGTHS)), (row + 1,))[row])
    return (length - window if 0 < window < length else 0), length


@njit(inline="always")
def count_chunks(context: int, row: int, window: int) -> int:
    """The number of a row's chunks."""
    begin, length = token_range(context, row, window)
    size = chunk_tokens(length - begin)
    return (length - begin + size - 1) // size


@njit(inline="always")
def _attend(itemsize: int, context: int, arguments: int, thread: int, threads: int) -> None:
    page_size, groups, dim, heads = word(arguments, 9), word(arguments, 10), word(arguments, 11), word(arguments, 12)
    scale, window, softcap = float_of(word(arguments, 13)), word(arguments, 14), float_of(word(arguments, 15))
    rows, shared, units, longest, divided = word(context, ROWS), heads // groups, 0, 0, False
    for row in range(rows):
        chunks = count_chunks(context, row, window)
        units += chunks * groups
        divided = divided or chunks > 1
        begin, length = token_range(context, row, window)
        longest = max(longest, chunk_tokens(length - begin))
    offsets, queries = np.empty(longest + AHEAD, np.int64), np.empty((shared, dim), np.float32)
    flat_queries = queries.reshape(-1)
    scores, first = np.empty((shared, longest), np.float32), 0
    for row in range(rows):
        begin, length = token_range(context, row, window)
        size, chunks = chunk_tokens(length - begin), count_chunks(context, row, window)
        sums = word(arguments, 17) + row * word(arguments, 18)
        maxima, filled = sums + 4 * MAX_CHUNKS * heads * dim, -1
        start = max(first, units * thread // threads)
        for unit in range(start, min(first + chunks * groups, units * (thread + 1) // threads)):
            chunk, group = (unit - first) // groups, (unit - first) % groups
            token = begin + chunk * size
            tokens = min(size, length - token)
            if chunk != filled:
                filled = chunk
                fill_offsets(offsets, context, row, token, token + tokens, page_size, groups * dim * itemsize)
            head = group * shared
            place = head * word(arguments, 19)
            q = floats_at(word(arguments, 0) + row * word(arguments, 1) + 4 * place * dim, shared * dim)
            for d in range(shared * dim):
                flat_queries[d] = q[d] * scale
            number, at = chunk * heads + head, group * dim * itemsize
            attend_chunk(
                itemsize,
                offsets,
                word(arguments, 6) + at,
                word(arguments, 7) + at,
                queries,
                softcap,
                scores,
                tokens,
                carray(float32_at(sums + 4 * number * dim), (shared, dim)),
                carray(float32_at(maxima + 4 * EXTRA * number), (shared, EXTRA)),
            )
            if chunks == 1:
                finish_heads(arguments, row, head, head + shared, 1)
        first += chunks * groups
    if divided:
        wait(word(context, BARRIER), threads)
        for unit in range(rows * heads * thread // threads, rows * heads * (thread + 1) // threads):
            chunks = count_chunks(context, unit // heads, window)
            if chunks > 1:
                finish_heads(arguments, unit // heads, unit % heads, unit % heads + 1, chunks)


@njit(**NUMBA_OPTIONS)
def finish_heads(arguments: int, row: int, begin: int, end: int, chunks: int) -> None:
    """Write the results of heads ``begin`` to ``end`` - 1 of a row."""
    dim, heads, sinks = word(arguments, 11), word(arguments, 12), word(arguments, 16)
    sums = word(arguments, 17) + row * word(arguments, 18)
    maxima = sums + 4 * MAX_CHUNKS * heads * dim
    for head in range(begin, end):
        out = floats_at(word(arguments, 3) + row * word(arguments, 4) + 4 * head * dim, dim)
        sink = floats_at(sinks, heads)[head] if sinks else NO_SINK
        add_chunks(sums + 4 * head * dim, maxima + 4 * EXTRA * head, chunks, heads, sink, out)


# One function for each type of the pages' elements, so that only those in use are compiled.


def _attend_float32(context: int, arguments: int, thread: int, threads: int) -> None:
    _attend(4, context, arguments, thread, threads)


def _attend_bfloat16(context: int, arguments: int, thread: int, threads: int) -> None:
    _attend(2, context, arguments, thread, threads)
