"""Layouts of tensors in GGUF that differ from transformers', each with its inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """Numbers of attention heads of a model."""

    query: int
    key_value: int


@dataclass(frozen=True)
class Layout:
    """``write`` turns a tensor of transformers into that of GGUF, ``read`` does the opposite.

    ``rows_only``: whether it reorders outputs, so that it applies to the second matrix of a LoRA too.
    """

    write: Callable[[Tensor, Heads], Tensor]
    read: Callable[[Tensor, Heads], Tensor]
    rows_only: bool = True


def _pair(rows: Tensor, heads: int) -> Tensor:
    """Interleave the two halves of each head's rows: llama.cpp rotates neighbours, transformers the halves."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _unpair(rows: Tensor, heads: int) -> Tensor:
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _swap_heads_and_parts(rows: Tensor, outer: int, inner: int) -> Tensor:
    return rows.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


AS_IS = Layout(lambda tensor, _: tensor, lambda tensor, _: tensor)
# GPT-2's Conv1D has [inputs, outputs].
TRANSPOSED = Layout(lambda tensor, _: tensor.t(), lambda tensor, _: tensor.t(), rows_only=False)
ROTARY_QUERY = Layout(lambda rows, heads: _pair(rows, heads.query), lambda rows, heads: _unpair(rows, heads.query))
ROTARY_KEY = Layout(
    lambda rows, heads: _pair(rows, heads.key_value), lambda rows, heads: _unpair(rows, heads.key_value)
)
# GPT-NeoX has query, key and value of one head after the other; GGUF has all queries first.
FUSED_BY_HEAD = Layout(
    lambda rows, heads: _swap_heads_and_parts(rows, heads.query, 3),
    lambda rows, heads: _swap_heads_and_parts(rows, 3, heads.query),
)
# Gemma multiplies by 1 + weight, llama.cpp by what is in the file.
NORM_PLUS_ONE = Layout(lambda tensor, _: tensor + 1, lambda tensor, _: tensor - 1, rows_only=False)
