"""``DecodeStep``: logits of a few rows by one compiled call.

Shapes: R rows, P pages of the longest table, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slm_kv.compiled.program import MAX_ROWS, StepContext
from slm_kv.decode_step.blocks import ModelDescription
from slm_kv.decode_step.build import StepBuilder
from slm_kv.decode_step.recognise import position_rows
from slm_kv.pages.block_table import BlockTable
from slm_kv.pages.storage import PagedStorage

MAX_THREADS = 64


class Rows(NamedTuple):
    """The next tokens of one sequence: their ids, the position of the first, and the sequence's pages."""

    ids: Sequence[int]
    position: int
    table: BlockTable


class DecodeStep:
    """A model's step of at most ``MAX_ROWS`` rows on the pages of one storage.

    Args:
        model: What it computes.
        storage: The pages.
        positions: The number of positions that a text can have.
        exact: Multiply quantised weights by inputs that are not rounded to 8 bits, which takes longer.
    """

    max_rows, rows = MAX_ROWS, Rows

    def __init__(self, model: ModelDescription, storage: PagedStorage, positions: int, *, exact: bool = False) -> None:
        self._model = model
        self._page_size = storage.page_size
        threads = max(torch.get_num_threads(), min(os.cpu_count() or 1, MAX_THREADS))
        builder = StepBuilder(model, storage, positions, threads, exact)
        self._program = builder.build()
        self._rotary = list(builder.rotary.values())
        self._x = torch.from_numpy(builder.workspace.array(builder.x))
        self._logits = torch.from_numpy(builder.workspace.array(builder.logits))
        self._context = StepContext()
        self._positions = np.zeros(MAX_ROWS, np.int64)
        self._slots = np.zeros(MAX_ROWS, np.int64)
        self._lengths = np.zeros(MAX_ROWS, np.int32)
        self._adapters = np.full(MAX_ROWS, -1, np.int32)
        self._pages = np.zeros((MAX_ROWS, 16), np.int32)
        fields = (StepContext.POSITIONS, StepContext.SLOTS, StepContext.LENGTHS, StepContext.ADAPTERS)
        arrays: tuple[np.ndarray, ...] = (self._positions, self._slots, self._lengths, self._adapters)
        for field, array in zip(fields, arrays, strict=True):
            self._context.set_array(field, array)

    def run(self, items: Sequence[Rows]) -> Tensor:
        """Store the rows' keys and values and return their logits, float32 [R, V]."""
        ids = [token for item in items for token in item.ids]
        self._set_tables(items)
        self._set_rows(items)
        positions = torch.from_numpy(self._positions[: len(ids)])
        x_RD = self._model.embedding(torch.tensor([ids]))[0]
        if self._model.embedding_scale != 1:
            x_RD = x_RD.float() * self._model.embedding_scale
        if self._model.positions is not None:
            x_RD = x_RD.float() + position_rows(self._model.positions, positions)
        self._x[: len(ids)] = x_RD
        for cache in self._rotary:
            cache.fill(int(self._positions[: len(ids)].max()) + 1)
        self._context[StepContext.ROWS] = len(ids)
        self._program.run(self._context)
        return self._logits[: len(ids)].clone()

    def _set_rows(self, items: Sequence[Rows]) -> None:
        row, size = 0, self._page_size
        for item in items:
            pages, length = item.table.pages, item.table.length
            for index in range(len(item.ids)):
                page, slot = divmod(length + index, size)
                self._positions[row] = item.position + index
                self._slots[row] = pages[page] * size + slot
                self._lengths[row] = length + index + 1
                row += 1

    def _set_tables(self, items: Sequence[Rows]) -> None:
        longest = max(len(item.table.pages) for item in items)
        if longest > self._pages.shape[1]:
            self._pages = np.zeros((MAX_ROWS, 2 * longest), np.int32)
        row = 0
        for item in items:
            pages = item.table.pages
            for _ in item.ids:
                self._pages[row, : len(pages)] = pages
                row += 1
        self._context.set_array(StepContext.PAGES, self._pages)
        self._context[StepContext.PAGES_STRIDE] = self._pages.shape[1]
