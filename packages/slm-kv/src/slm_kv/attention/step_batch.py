"""The rows of one step, and where their keys and values are stored.

Shapes: N rows of the step, S of them decode rows, T rows of a chunk, P pages of the longest table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
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
