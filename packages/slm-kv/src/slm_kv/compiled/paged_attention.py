"""Decode attention over pages, compiled by numba on first use and kept on disk.

One query a sequence reads that sequence's pages in place: no gather, no padding, and nothing that depends on the
other sequences of the batch. Arithmetic is float32 whatever the pages hold; bfloat16 comes and goes as uint16.
"""

# numba reads the signatures, and takes no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import njit, types

from slm_kv.compiled.elements import SETTINGS, compiled, exp, load, rounded
from slm_kv.compiled.prefetching import prefetch_run

AHEAD = 12288  # bytes between what is read and what is asked for meanwhile: pages lie in no order that a CPU foresees
COMMON = 64  # dimensions of a head in most small models: for a number that is known the compiler unrolls what it can


def compiled_for(*arguments):
    """Compile with the module, for float32 and for bfloat16, and for no other types: ``element`` stands for either.

    Rows come in strides of the model's making. Left to itself numba would compile again for each kind of them, in
    the middle of a text.
    """
    element = {"rows": (3, "A"), "pages": (4, "C"), "out": (3, "C")}

    def signature(kind):
        return types.void(*(types.Array(kind, *element[one]) if one in element else one for one in arguments))

    return njit([signature(types.float32), signature(types.uint16)], **SETTINGS)


@compiled
def softmax_weights(scores, length):
    """exp(score - the largest) in place; returns their sum. NaN where a score is NaN."""
    top, total = scores[0], np.float32(0.0)
    for t in range(length):
        top = max(top, scores[t])
        total += scores[t] * np.float32(0.0)
    for t in range(length):
        scores[t] = exp(scores[t] - top)
    for t in range(length):
        total += scores[t]
    return total


@compiled_for("rows", "rows", "pages", "pages", types.int64[::1])
def write(key, value, keys, values, slots):
    """Each row of ``key`` and ``value`` [N, G, D] into its slot of the pages [pages, page_size, G, D]."""
    page_size = keys.shape[1]
    for row in range(key.shape[0]):
        page, slot = slots[row] // page_size, slots[row] % page_size
        for group in range(key.shape[1]):
            for d in range(key.shape[2]):
                keys[page, slot, group, d] = key[row, group, d]
                values[page, slot, group, d] = value[row, group, d]


@njit(inline="always")
def fetch(flat, page, following, slot, page_size, width):
    """Prefetch a token of ``width`` elements: ``slot`` of ``page``, past its end of the page that follows."""
    token = page * page_size + slot if slot < page_size else following * page_size + slot - page_size
    prefetch_run(flat, token * width, width)


@njit(inline="always")
def page_after(pages, first, length, page_size):
    """The one of ``pages`` [P] after that which begins with token ``first``; that one again where it is the last."""
    after = first + page_size
    return pages[(after if after < length else first) // page_size]


@njit(inline="always")
def score(queries, keys, pages, length, ahead, dim, scores):
    """Products of ``queries`` [H, ``dim``] with the first ``length`` keys, into ``scores`` [H, length or more]."""
    heads, page_size, groups = len(queries), keys.shape[1], keys.shape[2]
    share, flat = heads // groups, keys.reshape(-1)
    for first in range(0, length, page_size):
        page, following = pages[first // page_size], page_after(pages, first, length, page_size)
        for slot in range(min(page_size, length - first)):
            fetch(flat, page, following, slot + ahead, page_size, groups * dim)
            for head in range(heads):
                dot = np.float32(0.0)
                for d in range(dim):
                    dot += queries[head, d] * load(keys[page, slot, head // share, d])
                scores[head, first + slot] = dot


@njit(inline="always")
def mix(weights, values, pages, length, ahead, dim, mixed):
    """The sum of the first ``length`` values by ``weights`` [H, length or more], into ``mixed`` [H, ``dim``]."""
    heads, page_size, groups = len(mixed), values.shape[1], values.shape[2]
    share, flat = heads // groups, values.reshape(-1)
    mixed[:] = np.float32(0.0)
    for first in range(0, length, page_size):
        page, following = pages[first // page_size], page_after(pages, first, length, page_size)
        for slot in range(min(page_size, length - first)):
            fetch(flat, page, following, slot + ahead, page_size, groups * dim)
            for head in range(heads):
                weight = weights[head, first + slot]
                for d in range(dim):
                    mixed[head, d] += weight * load(values[page, slot, head // share, d])


@njit(inline="always")
def attend(queries, keys, values, pages, length, dim, scores, totals, mixed):
    """One sequence of ``length`` tokens. ``queries`` [H, ``dim``], ``pages`` [P]; into ``mixed`` [H, ``dim``] the sum
    of values by weights that sum to ``totals`` [H]. ``scores`` [H, length or more] is room for them."""
    page_size, width = keys.shape[1], keys.shape[2] * dim
    ahead = min(page_size, max(1, AHEAD // (width * keys.itemsize)))
    score(queries, keys, pages, length, ahead, dim, scores)
    for head in range(len(queries)):
        totals[head] = softmax_weights(scores[head], length)
    mix(scores, values, pages, length, ahead, dim, mixed)


@compiled_for("rows", "pages", "pages", types.int32[:, ::1], types.int32[::1], types.float32, "out")
def decode(q, keys, values, pages, lengths, scale, out):
    """Attention of S queries, each over its own pages, in the order in which they lie: token by token, all heads.

    ``q`` and ``out`` [S, H, D]; ``keys`` and ``values`` [pages, page_size, G, D] with H a multiple of G;
    ``pages`` [S, P] int32; ``lengths`` [S] int32, the tokens each query sees, itself included.
    """
    heads, dim = q.shape[1], q.shape[2]
    scores = np.empty((heads, lengths.max()), np.float32)
    queries, mixed = np.empty((heads, dim), np.float32), np.empty((heads, dim), np.float32)
    totals = np.empty(heads, np.float32)
    for row in range(q.shape[0]):
        for head in range(heads):
            for d in range(dim):
                queries[head, d] = load(q[row, head, d]) * scale
        if dim == COMMON:
            attend(queries, keys, values, pages[row], lengths[row], COMMON, scores, totals, mixed)
        else:
            attend(queries, keys, values, pages[row], lengths[row], dim, scores, totals, mixed)
        for head in range(heads):
            for d in range(dim):
                out[row, head, d] = rounded(mixed[head, d] / totals[head], out[row, head, d])
