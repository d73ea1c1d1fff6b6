"""The integers that one call of a model needs, copied to the device as one tensor.

Shapes: N rows of the call, S of them decode rows, P pages of the longest table, K rows whose logits are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slm_kv.attention.step_batch import Chunk, StepBatch
from slm_kv.engine.scheduler import Work
from slm_kv.pages.block_table import BlockTable
from slm_kv.pages.storage import PagedStorage


class StepInputs(NamedTuple):
    """The inputs of a call, on the device of the pages."""

    token_ids: Tensor  # [N] int64
    positions: Tensor  # [N] int64
    keep: Tensor  # [K] int64: the rows whose logits are needed
    batch: StepBatch


def step_inputs(work: list[Work], storage: PagedStorage, keep: Sequence[int] = ()) -> StepInputs:
    """Make the inputs of the rows of ``work``, which is sorted (``sort_rows``); ``keep`` are the K rows."""
    slots = np.concatenate([slots_of(item, storage.page_size) for item in work])
    decode_pages, decode_lengths = _decode_rows(work)
    chunks = [item for item in work if not item.decodes]
    page_numbers = [np.array(item.sequence.block_table.pages) for item in chunks]
    indices = [_token_ids(work), _positions(work), slots, np.array(keep, np.int64), *page_numbers]
    sizes = [len(numbers) for numbers in indices]
    staged = to_device([*indices, decode_pages.ravel(), decode_lengths], storage.device)
    indices_size, pages_end = sum(sizes), sum(sizes) + decode_pages.size
    token_ids, positions, slots_N, keep_K, *pages = staged[:indices_size].long().split(sizes)
    batch = StepBatch(
        storage,
        slots_N,
        staged[indices_size:pages_end].view(decode_pages.shape),
        staged[pages_end:],
        _chunks(chunks, len(decode_lengths), page_numbers, pages),
    )
    return StepInputs(token_ids, positions, keep_K, batch)


def decode_inputs(work: list[Work], storage: PagedStorage, rows: int, width: int) -> list[np.ndarray]:
    """The numbers of a decode step of ``rows`` rows with tables of ``width`` pages; those of ``work`` come first.

    The other rows compute token 0 at position 0 in the spare page of ``storage``.

    Returns:
        Token ids, positions, slots and lengths [rows] each, and pages [rows, width] in one dimension.
    """
    spare = storage.spare_page
    pages, lengths = _decode_rows(work)
    known = sum(item.count for item in work)
    vectors = np.zeros((4, rows), np.int64)
    vectors[2], vectors[3] = spare * storage.page_size, 1
    tables = np.full((rows, width), spare, np.int32)
    if work:
        slots = np.concatenate([slots_of(item, storage.page_size) for item in work])
        vectors[:, :known] = _token_ids(work), _positions(work), slots, lengths
        tables[:known, : pages.shape[1]] = pages
    return [vectors.ravel(), tables.ravel()]


def sort_rows(work: list[Work]) -> list[Work]:
    """Sort ``work`` in place: decode rows come first, as in StepBatch."""
    work.sort(key=lambda item: not item.decodes)  # stable
    return work


def slots_of(item: Work, page_size: int) -> np.ndarray:
    """The slots that the next ``item.count`` keys and values are written to: page * page_size + slot."""
    table = item.sequence.block_table
    if item.count == 1:
        page, slot = divmod(table.length, page_size)
        return np.array([table.pages[page] * page_size + slot])
    tokens = np.arange(table.length, table.length + item.count)
    return np.array(table.pages)[tokens // page_size] * page_size + tokens % page_size


def _token_ids(work: list[Work]) -> np.ndarray:
    return np.array([token for item in work for token in item.token_ids])


def _positions(work: list[Work]) -> np.ndarray:
    return np.array([item.sequence.position + row for item in work for row in range(item.count)])


def _decode_rows(work: list[Work]) -> tuple[np.ndarray, np.ndarray]:
    """The pages [S, P] and the lengths [S] of the decode rows.

    Each row of a draft attends to the tokens up to its own, like a sequence that shares the pages.
    """
    tables: list[BlockTable] = []
    lengths: list[int] = []
    for item in work:
        if item.decodes:
            table = item.sequence.block_table
            tables += [table] * item.count
            lengths += range(table.length + 1, table.length + item.count + 1)
    pages = np.zeros((len(tables), max((len(table.pages) for table in tables), default=0)), np.int32)
    for row, table in enumerate(tables):
        pages[row, : len(table.pages)] = table.pages
    return pages, np.array(lengths, np.int32)


def _chunks(work: list[Work], first: int, page_numbers: list[np.ndarray], pages: Sequence[Tensor]) -> tuple[Chunk, ...]:
    chunks = []
    for item, numbers, tensor in zip(work, page_numbers, pages, strict=True):
        chunks.append(Chunk(first, first + item.count, item.sequence.block_table.length, numbers, tensor))
        first += item.count
    return tuple(chunks)


def to_device(parts: list[np.ndarray], device: torch.device) -> Tensor:
    """Copy the numbers to ``device`` one after the other, as int32: a pool has fewer than 2^31 slots.

    From pinned memory, the copy waits for nothing. torch keeps that memory until the copy is done.
    """
    return stage(parts, device).to(device, non_blocking=True)


def stage(parts: list[np.ndarray], device: torch.device) -> Tensor:
    """Write the numbers one after the other, as int32, to memory of the host from which ``device`` can copy them."""
    staged = torch.empty(sum(part.size for part in parts), dtype=torch.int32, pin_memory=device.type == "cuda")
    np.concatenate(parts, out=staged.numpy(), casting="same_kind")
    return staged
