"""Rotary embeddings and norms of heads, and storing keys and values in pages."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import carray, cfunc, njit
from torch import Tensor

from slm_kv.compiled.addresses import float32_at, uint16_at, word
from slm_kv.compiled.elements import float32_to_bfloat16
from slm_kv.compiled.operations.shares import address_of, float_of, floats_at
from slm_kv.compiled.program import (
    OPERATION_OPTIONS,
    POSITIONS,
    ROWS,
    SIGNATURE,
    SLOTS,
    Buffer,
    Instruction,
    float_bits,
)


class Pages(NamedTuple):
    """A layer's pages [pages, page_size, G, D] of keys and of values, in float32 or bfloat16."""

    keys: int
    values: int
    itemsize: int
    page_size: int
    groups: int
    dim: int

    @classmethod
    def of(cls, keys: Tensor, values: Tensor) -> Pages:
        """Describe tensors, which must outlive the program.

        Raises:
            ValueError: The pages are not contiguous float32 or bfloat16 of one shape.
        """
        supported = keys.dtype == values.dtype and keys.dtype in (torch.float32, torch.bfloat16)
        if not supported or keys.shape != values.shape or not (keys.is_contiguous() and values.is_contiguous()):
            raise ValueError(f"Compiled attention reads contiguous float32 or bfloat16 pages, not {keys.dtype}")
        return cls(keys.data_ptr(), values.data_ptr(), keys.itemsize, *keys.shape[1:])


class Rotary(NamedTuple):
    """Tables [positions, rotary_dim] of cosines and sines in float32; the rest of a head's dimensions stay.

    Dimension d is paired with d + rotary_dim / 2, or with its neighbour if ``interleaved``.
    """

    cos: np.ndarray
    sin: np.ndarray
    interleaved: bool = False


def rotate_and_store(
    qkv: Buffer,
    pages: Pages,
    *,
    heads: int,
    rotary: Rotary | None,
    query_norm: np.ndarray | None = None,
    key_norm: np.ndarray | None = None,
    eps: float = 0.0,
    by_head: bool = False,
) -> Instruction:
    """Normalise and rotate queries and keys in place, and store keys and values in the slots of the rows.

    Args:
        qkv: [R, (heads + 2 G) * D]: queries, keys, values; if ``by_head``, those of the first head, of the second ...
        pages: Where keys and values go.
        heads: Heads of queries.
        rotary: None for models without rotary embeddings. A row's position must be in its tables.
        query_norm: The weight [D] of an RMSNorm of each head's query; None for no norm.
        key_norm: The same of keys.
        eps: Of these norms.
        by_head: Requires as many heads of keys as of queries.
    """
    cos, sin = (address_of(rotary.cos), address_of(rotary.sin)) if rotary else (0, 0)
    rotary_dim = rotary.cos.shape[1] if rotary else 0
    layout = (pages.keys, pages.values, pages.itemsize, heads, pages.groups, pages.dim)
    norms = (address_of(query_norm), address_of(key_norm), float_bits(eps))
    interleaved = int(bool(rotary and rotary.interleaved))
    return (_rotate_and_store.address, *qkv.words, *layout, cos, sin, rotary_dim, interleaved, *norms, int(by_head))


@njit(inline="always")
def normalise_head(head: np.ndarray, weights: int, eps: np.float32) -> None:
    """RMSNorm of ``head`` [D] in place; none if ``weights`` is 0."""
    if weights == 0:
        return
    weight, total = floats_at(weights, len(head)), np.float32(0.0)
    for d in range(len(head)):
        total += head[d] * head[d]
    factor = np.float32(1.0) / np.sqrt(total / np.float32(len(head)) + eps)
    for d in range(len(head)):
        head[d] = head[d] * factor * weight[d]


@njit(inline="always")
def rotate(head: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: int) -> None:
    """Rotate the first dimensions of ``head`` [D] in place, as many as ``cos`` and ``sin`` have."""
    half = len(cos) // 2
    for pair in range(half):
        first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
        a, b = head[first], head[second]
        head[first] = a * cos[first] - b * sin[first]
        head[second] = b * cos[second] + a * sin[second]


@njit(inline="always")
def store(head: np.ndarray, pages: int, element: int, itemsize: int) -> None:
    """Write ``head`` [D] to ``pages``, the address of float32 or bfloat16, from ``element`` on."""
    if itemsize == 4:
        exact = carray(float32_at(pages + 4 * element), (len(head),))
        for d in range(len(head)):
            exact[d] = head[d]
    else:
        rounded = carray(uint16_at(pages + 2 * element), (len(head),))
        for d in range(len(head)):
            rounded[d] = float32_to_bfloat16(head[d])


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _rotate_and_store(context: int, arguments: int, thread: int, threads: int) -> None:
    qkv, row_bytes, keys, values = word(arguments, 0), word(arguments, 1), word(arguments, 3), word(arguments, 4)
    itemsize, heads, groups, dim = word(arguments, 5), word(arguments, 6), word(arguments, 7), word(arguments, 8)
    cosines, sines, rotary_dim = word(arguments, 9), word(arguments, 10), word(arguments, 11)
    interleaved, eps, rotated = word(arguments, 12), float_of(word(arguments, 15)), heads + groups
    units = word(context, ROWS) * (heads + 2 * groups)
    for unit in range(units * thread // threads, units * (thread + 1) // threads):
        row, index = unit // (heads + 2 * groups), unit % (heads + 2 * groups)
        place = index % heads * 3 + index // heads if word(arguments, 16) else index
        head = floats_at(qkv + row * row_bytes + 4 * place * dim, dim)
        if index < rotated:
            normalise_head(head, word(arguments, 13 if index < heads else 14), eps)
            if rotary_dim:
                line = 4 * word(word(context, POSITIONS), row) * rotary_dim
                cos, sin = floats_at(cosines + line, rotary_dim), floats_at(sines + line, rotary_dim)
                rotate(head, cos, sin, interleaved)
        first = word(word(context, SLOTS), row) * groups * dim
        if index >= rotated:
            store(head, values, first + (index - rotated) * dim, itemsize)
        elif index >= heads:
            store(head, keys, first + (index - heads) * dim, itemsize)
