"""The rows of one step, and where their keys and values are stored.

Shapes: N rows of the step, S of them decode rows, T rows of a chunk, P pages of the longest table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slm_kv.pages.storage import PagedStorage


@dataclass(frozen=True)
class Chunk:
    """Rows ``first`` to ``last`` of the step: consecutive tokens of one prompt, after ``past`` tokens in its pages."""

    first: int
    last: int
    past: int
    page_numbers: np.ndarray  # enough for past + T tokens
    pages: Tensor  # the same on the device of the pages, int64

    @property
    def length(self) -> int:
        """The number of tokens that the last row attends to."""
        return self.past + self.last - self.first


class ChunkSpans(NamedTuple):
    """The chunks of a step, K in all, as one call of attention takes them, on the device of the pages."""

    row_ends: Tensor  # [K + 1] int32: 0, and where each chunk's rows end, counted from the first chunk's row
    key_ends: Tensor  # [K + 1] int32: 0, and where its keys end, those of all chunks in one piece
    slots: Tensor | None  # int32: the slots of these keys; None if no chunk has a past, so that they are the step's own
    max_rows: int
    max_length: int


@dataclass(frozen=True)
class StepBatch:
    """One step's rows: first S decode rows, each the next token of a sequence, then chunks of prompts."""

    storage: PagedStorage
    slots: Tensor  # [N] int64: page * page_size + slot, where each row's key and value are written
    decode_pages: Tensor  # [S, P] int32
    decode_lengths: Tensor  # [S] int32: the tokens that the row attends to, itself included
    chunks: tuple[Chunk, ...]

    @property
    def decode_rows(self) -> int:
        """The number of decode rows, S."""
        return len(self.decode_lengths)

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``slots``, ``decode_pages`` and ``decode_lengths`` as numpy arrays; from another device than a CPU, copied.

        Cached because all layers share them: created in each layer, they took 9 of the 27 microseconds of one
        sequence's attention; created once per step, 5.
        """
        return self.slots.cpu().numpy(), self.decode_pages.cpu().numpy(), self.decode_lengths.cpu().numpy()

    @cached_property
    def chunk_spans(self) -> ChunkSpans:
        """Where the rows and keys of the chunks are, of which there must be one. Cached because all layers share it.

        Copied as one tensor of int32, because a pool has fewer than 2^31 slots, and from pinned memory, so that nothing
        waits.
        """
        rows, lengths = [chunk.last - chunk.first for chunk in self.chunks], [chunk.length for chunk in self.chunks]
        parts = [np.cumsum([0, *rows]), np.cumsum([0, *lengths])]
        has_past = any(chunk.past for chunk in self.chunks)
        if has_past:
            parts += [_slots(chunk, self.storage.page_size) for chunk in self.chunks]
        device = self.storage.device
        staged = torch.empty(sum(map(len, parts)), dtype=torch.int32, pin_memory=device.type == "cuda")
        np.concatenate(parts, out=staged.numpy(), casting="same_kind")
        count = len(rows) + 1
        row_ends, key_ends, slots = staged.to(device, non_blocking=True).tensor_split([count, 2 * count])
        return ChunkSpans(row_ends, key_ends, slots if has_past else None, max(rows), max(lengths))


def _slots(chunk: Chunk, page_size: int) -> np.ndarray:
    """The slots of the chunk's tokens, its past included."""
    tokens = np.arange(chunk.length)
    return chunk.page_numbers[tokens // page_size] * page_size + tokens % page_size
