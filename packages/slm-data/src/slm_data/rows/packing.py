"""``plan_rows``: which tokens of the flat token store form which row. Plans contain numbers only, no tensors.

A document longer than the block is split into pieces; no token is dropped. The packing methods are described in
``packing_names``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slm_data.errors import DataError
from slm_data.rows.array_types import Ints
from slm_data.rows.best_fit import pack_best_fit
from slm_data.rows.packing_names import Packing, as_packing


@dataclass(frozen=True)
class RowPlan:
    """Rows as segments of the token store.

    A segment is a range of consecutive tokens: of one document, or of several with ``concat``.

    Row ``r`` consists of the segments from ``first[r]`` up to, but not including, ``first[r + 1]``; segment ``s`` is
    ``tokens[start[s] : start[s] + length[s]]``. Segments of one row do not attend to each other.
    """

    packing: Packing
    block_size: int
    first: Ints  # [rows + 1]
    start: Ints  # [segments]
    length: Ints  # [segments]
    split_documents: int

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def row_lengths(self) -> Ints:
        """Tokens in each row, ``[rows]``."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length)])[self.first]
        return np.diff(ends)

    @property
    def tokens(self) -> int:
        return int(self.length.sum())

    @property
    def predicted_tokens(self) -> int:
        """Tokens with a loss: all but the first of each segment, which has no context."""
        return self.tokens - len(self.length)

    @property
    def utilisation(self) -> float:
        """Tokens divided by ``rows x block_size``."""
        return self.tokens / max(1, len(self) * self.block_size)


def plan_rows(
    lengths: npt.ArrayLike, block_size: int, packing: Packing, *, fill: float = 0.95, seed: int = 0
) -> RowPlan:
    """Distribute documents over rows of at most ``block_size`` tokens.

    Args:
        lengths: Tokens of each document, ``[documents]``.
        block_size: Tokens of a full row.
        packing: See ``packing_names``.
        fill: Target utilisation of ``best_fit``. It limits the number of rows; once that is reached, a document that
            fits into no gap is split over the widest gaps. With 0, only documents longer than the block are split.
        seed: Selects which documents of equal length share a row (``best_fit``).

    Raises:
        DataError: The block is too short to predict anything, or the packing is unknown.
    """
    if block_size < 2:
        raise DataError(f"--block_size {block_size} leaves nothing to predict; use 2 or more")
    as_packing(packing)
    documents = np.asarray(lengths, dtype=np.int64)
    if packing == "concat":
        return _concatenate(documents, block_size)
    start, length = _split_long_documents(documents, block_size)
    first = np.arange(len(start) + 1)
    if packing == "best_fit":
        first, start, length = pack_best_fit(start, length, block_size, fill, seed)
    return RowPlan(packing, block_size, first, start, length, _count_split_documents(documents, start))


def _concatenate(lengths: Ints, block_size: int) -> RowPlan:
    total, ends = int(lengths.sum()), np.cumsum(lengths)
    start = np.arange(0, total, block_size, dtype=np.int64)
    if total % block_size == 1 and total > 1 and block_size > 2:
        start[-1] -= 1  # a last row of one token would have nothing to predict: its mean loss is 0 / 0
    document = np.searchsorted(ends, start, side="right")
    split = np.unique(document[start > (ends - lengths)[document]])
    first = np.arange(len(start) + 1)
    return RowPlan("concat", block_size, first, start, np.diff(np.append(start, total)), len(split))


def _split_long_documents(lengths: Ints, block_size: int) -> tuple[Ints, Ints]:
    """Return start and length of each document, or of its pieces of at most ``block_size`` tokens."""
    count = np.maximum(1, -(-lengths // block_size))
    document = np.repeat(np.arange(len(lengths)), count)
    index = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    offset = index * block_size
    # A last piece of a single token would have nothing to predict: it gets a second one from the piece before.
    offset[(lengths[document] - offset == 1) & (index > 0) & (block_size > 2)] -= 1
    is_last = index == count[document] - 1
    end = np.where(is_last, lengths[document], np.append(offset[1:], 0))
    return (np.cumsum(lengths) - lengths)[document] + offset, end - offset


def _count_split_documents(lengths: Ints, start: Ints) -> int:
    """Return the number of documents that are spread over more than one segment."""
    document = np.searchsorted(np.cumsum(lengths), start, side="right")
    return int((np.bincount(document, minlength=1) > 1).sum())
