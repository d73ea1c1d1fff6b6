"""Decode attention over pages, compiled by numba on first use and kept on disk.

One query a sequence reads that sequence's pages in place: no gather, no padding, and nothing that depends on the
other sequences of the batch. Arithmetic is float32 whatever the pages hold; bfloat16 comes and goes as uint16.
"""

# numba reads the signatures, and takes no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import njit, types

from slm_kv.elements import SETTINGS, compiled, load, rounded

LOG2_E = np.float32(1.4426950408889634)
# 2**f for f in [-0.5, 0.5], Taylor's series of exp(f ln 2): off by 1.2e-7 of the value at most.
C1, C2, C3 = np.float32(0.6931471805599453), np.float32(0.2402265069591007), np.float32(0.05550410866482158)
C4, C5, C6 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443), np.float32(0.00015403530393381608)


def compiled_for(*arguments):
    """Compile with the module, for float32 and for bfloat16, and for no other types: ``element`` stands for either.

    Rows come in strides of the model's making. Left to itself numba would compile again for each kind of them, in
    the middle of a text.
    """
    element = {"rows": (3, "A"), "pages": (4, "C"), "out": (3, "C")}

    def signature(kind):
        return types.void(*(types.Array(kind, *element[one]) if one in element else one for one in arguments))

    return njit([signature(types.float32), signature(types.uint16)], **SETTINGS)


@njit(inline="always")
def exp(x):
    """exp of x <= 0. LLVM makes vector code of a loop of it, which it does not of a call of libm."""
    y = max(x * LOG2_E, np.float32(-126.0))
    n = np.floor(y + np.float32(0.5))
    f = y - n
    p = np.float32(1.0) + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


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


@compiled
def score(queries, keys, pages, length, scores):
    """Products of ``queries`` [H, D] with the first ``length`` keys, into ``scores`` [H, length or more]."""
    heads, page_size = len(queries), keys.shape[1]
    share = heads // keys.shape[2]
    for first in range(0, length, page_size):
        page = pages[first // page_size]
        for slot in range(min(page_size, length - first)):
            for head in range(heads):
                dot = np.float32(0.0)
                for d in range(queries.shape[1]):
                    dot += queries[head, d] * load(keys[page, slot, head // share, d])
                scores[head, first + slot] = dot


@compiled
def mix(weights, values, pages, length, mixed):
    """The sum of the first ``length`` values by ``weights`` [H, length or more], into ``mixed`` [H, D]."""
    heads, page_size = len(mixed), values.shape[1]
    share = heads // values.shape[2]
    mixed[:] = np.float32(0.0)
    for first in range(0, length, page_size):
        page = pages[first // page_size]
        for slot in range(min(page_size, length - first)):
            for head in range(heads):
                weight = weights[head, first + slot]
                for d in range(mixed.shape[1]):
                    mixed[head, d] += weight * load(values[page, slot, head // share, d])


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
        score(queries, keys, pages[row], lengths[row], scores)
        for head in range(heads):
            totals[head] = softmax_weights(scores[head], lengths[row])
        mix(scores, values, pages[row], lengths[row], mixed)
        for head in range(heads):
            for d in range(dim):
                out[row, head, d] = rounded(mixed[head, d] / totals[head], out[row, head, d])
