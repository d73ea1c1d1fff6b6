"""A GGUF file's quantised tensors as blocks of ``block_formats``, without rounding (Q4_K: scales to float16).

Shapes: O outputs, G groups of 32 inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slm_kv.linear.block_formats import OUTPUTS_AT_ONCE, BlockFormat, QuantisedWeight, arrange_blocks

Bytes = np.ndarray


class Groups(NamedTuple):
    """Groups of 32 weights ``scale * (step - zero) + minimum`` as a file has them."""

    steps: Tensor  # uint8 [O, G, 32]
    scale: Tensor  # float16 [O, G, 1]
    minimum: Tensor | None  # the same


def _split_q8_0(blocks: Tensor) -> Groups:
    """float16 scale, 32 int8."""
    return Groups(blocks[..., 2:] + 128, _float16(blocks[..., :2]), None)  # int8 + 128 as bytes, modulo 256


def _split_q4_0(blocks: Tensor) -> Groups:
    """float16 scale, 16 bytes: weight j in the lower half of byte j, weight 16 + j in the upper one."""
    return Groups(_halves(blocks[..., 2:]), _float16(blocks[..., :2]), None)


def _split_q4_1(blocks: Tensor) -> Groups:
    """float16 scale, float16 minimum, then as Q4_0."""
    return Groups(_halves(blocks[..., 4:]), _float16(blocks[..., :2]), _float16(blocks[..., 2:4]))


def _split_q4_k(blocks: Tensor) -> Groups:
    """256 weights: float16 scales of scales and of minima, 8 of each in 6 bits, 4 times 32 bytes of two groups."""
    factor, offset = _float16(blocks[..., :2]).float(), _float16(blocks[..., 2:4]).float()
    low, middle, high = blocks[..., 4:16].unflatten(-1, (3, 4)).unbind(-2)
    scale = torch.cat((low & 63, (high & 15) | (low >> 6 << 4)), -1)
    minimum = torch.cat((middle & 63, (high >> 4) | (middle >> 6 << 4)), -1)
    steps = _halves(blocks[..., 16:].unflatten(-1, (4, 32))).unflatten(-1, (2, 32)).flatten(-3, -2)  # [O, B, 8, 32]
    scales, minima = (factor * scale).half(), (-offset * minimum).half()
    return Groups(steps.flatten(1, 2), scales.flatten(1)[..., None], minima.flatten(1)[..., None])


class _Type(NamedTuple):
    format: BlockFormat
    block_bytes: int
    split: Callable[[Tensor], Groups]


TYPES = {
    "Q8_0": _Type("q8", 34, _split_q8_0),
    "Q4_0": _Type("q4", 18, _split_q4_0),
    "Q4_1": _Type("q41", 20, _split_q4_1),
    "Q4_K": _Type("q41", 144, _split_q4_k),
}


def from_gguf_blocks(data: Bytes, type_name: str) -> QuantisedWeight:
    """Rearrange a tensor of a GGUF file.

    Args:
        data: uint8 [O, bytes of a row], as GGUFReader has it.
        type_name: A key of ``TYPES``.
    """
    kind = TYPES[type_name]
    pieces, groups = [], 0
    for first in range(0, len(data), OUTPUTS_AT_ONCE):
        rows = torch.from_numpy(data[first : first + OUTPUTS_AT_ONCE].copy())
        split = kind.split(rows.unflatten(1, (-1, kind.block_bytes)))
        pieces.append(arrange_blocks(*split, kind.format))
        groups = split.steps.shape[1]
    return QuantisedWeight(kind.format, len(data), 32 * groups, torch.cat(pieces))


def _float16(pairs: Tensor) -> Tensor:
    return pairs.contiguous().view(torch.float16)


def _halves(values: Tensor) -> Tensor:
    """The lower halves of the bytes, then the upper ones."""
    return torch.cat((values & 15, values >> 4), -1)
