"""What attention has to know of one step: which rows there are, and where their keys and values lie.

Shapes: N rows of the step, S of them decode rows, T rows of a chunk, P pages of the longest table,
H heads, G heads of keys and values (H is a multiple of G), D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerShape:
    """One layer's keys, and values alike, for one token: G heads of D dimensions."""

    heads: int
    dim: int


class PagedStorage:
    """The pool's tensors: ``keys[layer]`` and ``values[layer]``, [max_pages, page_size, G, D]. They never grow.

    A token's heads lie together and a page is one piece of memory: read in this order it comes half again as fast as
    in pieces of one head. A run of neighbouring pages is one plain tensor to a head: a view, no gather.
    """

    def __init__(
        self, layers: Sequence[LayerShape], max_pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        def pages() -> list[Tensor]:
            return [
                torch.zeros(max_pages, page_size, layer.heads, layer.dim, dtype=dtype, device=device)
                for layer in layers
            ]

        self.page_size, self.max_pages, self.dtype, self.device = page_size, max_pages, dtype, device
        self.keys, self.values = pages(), pages()

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return sum(tensor.nbytes for tensor in self.keys + self.values)

    @cached_property
    def arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys and values of each layer for compiled code, on a CPU: no copy."""
        from slm_kv.compiled.elements import bits  # needs numba, which compiled code alone may

        return [(bits(keys), bits(values)) for keys, values in zip(self.keys, self.values, strict=True)]

    def copy(self, source: int, target: int) -> None:
        """The contents of page ``source`` into page ``target``, in every layer."""
        for tensor in self.keys + self.values:
            tensor[target] = tensor[source]


@dataclass(frozen=True)
class Chunk:
    """Rows ``first`` to ``last`` of the step: tokens of one prompt in order, after ``past`` tokens in its pages."""

    first: int
    last: int
    past: int
    pages: Tensor  # int64, enough for past + T tokens

    @property
    def length(self) -> int:
        """Tokens that the last row sees."""
        return self.past + self.last - self.first


@dataclass(frozen=True)
class StepBatch:
    """One step's rows: first S decode rows, each one token of its own sequence, then chunks of prompts."""

    storage: PagedStorage
    slots: Tensor  # [N] int64: page * page_size + slot, where each row's key and value go
    decode_pages: Tensor  # [S, P] int32
    decode_lengths: Tensor  # [S] int32: tokens that the row sees, itself included
    chunks: tuple[Chunk, ...]

    @property
    def decode_rows(self) -> int:
        return len(self.decode_lengths)

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``slots``, ``decode_pages`` and ``decode_lengths``, on a CPU, made once for all layers."""
        return self.slots.numpy(), self.decode_pages.numpy(), self.decode_lengths.numpy()
