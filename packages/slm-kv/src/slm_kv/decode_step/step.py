"""``DecodeStep``: logits of a few rows by one compiled call.

Shapes: R rows, P pages of the longest table, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slm_kv.compiled.block_weights import BLOCK_WITH_AMX, BlockWeight
from slm_kv.compiled.program import MAX_ROWS, Program, StepContext
from slm_kv.decode_step.adapter import Adapter
from slm_kv.decode_step.blocks import ModelDescription
from slm_kv.decode_step.build import StepBuilder
from slm_kv.decode_step.recognise import position_rows
from slm_kv.pages.block_table import BlockTable
from slm_kv.pages.storage import PagedStorage

MAX_THREADS = 64
# On CPUs with AMX oneDNN takes less time for each more row in bfloat16, but calling the model's modules takes a while.
# With layers of 576 and 1,536 outputs both took the same time at 28 rows, with 2,048 and 5,632 at 7 (CPU time of
# one thread, Xeon with AMX): 5 rows, and 12.5 million divided by the weights of a layer. In other formats, and without
# AMX, the step was faster up to 32 rows.
MIN_ROWS, AMX_ROWS, AMX_WEIGHTS = 8, 5, 12.5e6


class Rows(NamedTuple):
    """The next tokens of one sequence: their ids, the position of the first, the sequence's pages and its adapter."""

    ids: Sequence[int]
    position: int
    table: BlockTable
    adapter: str | None = None


def fastest_rows(weights: Sequence[BlockWeight]) -> int:
    """The number of rows up to which a step that multiplies by ``weights`` is faster than the model itself."""
    if all(weight.width != BLOCK_WITH_AMX for weight in weights):
        return MAX_ROWS
    mean = sum(weight.outputs * weight.inputs for weight in weights) / len(weights)
    return max(MIN_ROWS, min(MAX_ROWS, round(AMX_ROWS + AMX_WEIGHTS / mean)))


class DecodeStep:
    """A model's step of a few rows on the pages of one storage.

    Attributes:
        max_rows: The number of rows up to which it is faster than the model itself; at least ``MIN_ROWS``.

    Args:
        model: What it computes.
        storage: The pages.
        positions: The number of positions that a text can have.
        exact: Multiply quantised weights by inputs that are not rounded to 8 bits, which takes longer.
    """

    rows = Rows

    def __init__(self, model: ModelDescription, storage: PagedStorage, positions: int, *, exact: bool = False) -> None:
        self._model = model
        self.max_rows = fastest_rows([layer.module.block_weight for layer in model.linears])
        self._page_size = storage.page_size
        threads = max(torch.get_num_threads(), min(os.cpu_count() or 1, MAX_THREADS))
        self._builder = builder = StepBuilder(model, storage, positions, threads, exact)
        self._program = builder.build()
        self._adapters: Mapping[str, Adapter] = {}
        self._adapted: Program | None = None
        self._rotary = list(builder.rotary.values())
        self._x = torch.from_numpy(builder.workspace.array(builder.x))
        self._logits = torch.from_numpy(builder.workspace.array(builder.logits))
        self._context = StepContext()
        self._positions = np.zeros(MAX_ROWS, np.int64)
        self._slots = np.zeros(MAX_ROWS, np.int64)
        self._lengths = np.zeros(MAX_ROWS, np.int32)
        self._numbers = np.full(MAX_ROWS, -1, np.int32)  # of the rows' adapters
        self._pages = np.zeros((MAX_ROWS, 16), np.int32)
        fields = (StepContext.POSITIONS, StepContext.SLOTS, StepContext.LENGTHS, StepContext.ADAPTERS)
        arrays: tuple[np.ndarray, ...] = (self._positions, self._slots, self._lengths, self._numbers)
        for field, array in zip(fields, arrays, strict=True):
            self._context.set_array(field, array)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters that rows can have."""
        return self._adapters

    @adapters.setter
    def adapters(self, adapters: Mapping[str, Adapter]) -> None:
        if adapters != self._adapters:
            self._adapters, self._adapted = adapters, None

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
        self._program_for(items).run(self._context)
        return self._logits[: len(ids)].clone()

    def _program_for(self, items: Sequence[Rows]) -> Program:
        """The program without adapters, or one with all of them, which is built when a row first has an adapter."""
        if all(item.adapter is None for item in items):
            return self._program
        if self._adapted is None:
            self._adapted = self._builder.build(list(self._adapters.values()))
        return self._adapted

    def _set_rows(self, items: Sequence[Rows]) -> None:
        row, size = 0, self._page_size
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(self._adapters)} | {None: -1}
        for item in items:
            pages, length = item.table.pages, item.table.length
            self._numbers[row : row + len(item.ids)] = numbers[item.adapter]
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
