"""Documents to rows: which tokens of the flat store form which row. Plans, no tensors.

``concat``    the classic stream: everything end to end, cut every ``block_size`` tokens.
``best_fit``  documents side by side, best-fit-decreasing, none seeing another.
``none``      one document a row.

A document longer than the block is cut into pieces; nothing is ever dropped or truncated.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import numpy.typing as npt

from slm_data.errors import DataError

Packing = Literal["concat", "best_fit", "none"]
PACKINGS: tuple[Packing, ...] = ("concat", "best_fit", "none")
Ints = npt.NDArray[np.int64]

SMALLEST_PIECE = 16  # a shorter piece of a document teaches little


@dataclass(frozen=True)
class RowPlan:
    """Row ``r`` is the segments ``first[r]`` to ``first[r + 1]``; segment ``s`` is the ``length[s]``
    tokens of the store from ``start[s]`` on. Segments of one row do not attend to each other."""

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
        """Tokens with a loss: all but the first of each segment, which nothing comes before."""
        return self.tokens - len(self.length)

    @property
    def utilisation(self) -> float:
        """Tokens for each slot of ``rows x block_size``."""
        return self.tokens / max(1, len(self) * self.block_size)


def plan_rows(
    lengths: npt.ArrayLike, block_size: int, packing: Packing, *, fill: float = 0.95, seed: int = 0
) -> RowPlan:
    """Lay out documents of ``lengths`` tokens in rows of at most ``block_size`` tokens.

    ``fill`` is the utilisation that ``best_fit`` reaches for: once as many rows are open as that
    takes, a document that fits no gap whole is cut to the widest ones. 0 keeps whole every document
    that fits the block.
    Raises DataError for a block too short to learn from or an unknown packing.
    """
    if block_size < 2:
        raise DataError(f"--block_size {block_size} leaves nothing to predict; use 2 or more")
    as_packing(packing)
    documents = np.asarray(lengths, dtype=np.int64)
    if packing == "concat":
        return _concat(documents, block_size)
    first, (start, length) = None, _pieces(documents, block_size)
    if packing == "best_fit":
        first, start, length = _best_fit(start, length, block_size, fill, seed)
    rows = np.arange(len(start) + 1) if first is None else first
    return RowPlan(packing, block_size, rows, start, length, _split_count(documents, start))


def as_packing(name: str) -> Packing:
    """``name`` as a Packing. Raises DataError, with a guess at what was meant."""
    if name not in PACKINGS:
        close = get_close_matches(name, PACKINGS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"unknown packing {name!r}; {hint}choose from {', '.join(PACKINGS)}")
    return name


def _concat(lengths: Ints, block: int) -> RowPlan:
    total, ends = int(lengths.sum()), np.cumsum(lengths)
    start = np.arange(0, total, block, dtype=np.int64)
    if total % block == 1 and total > 1 and block > 2:
        start[-1] -= 1  # a last row of one token would have nothing to predict, and its mean loss is 0 / 0
    document = np.searchsorted(ends, start, side="right")
    split = np.unique(document[start > (ends - lengths)[document]])
    rows = np.arange(len(start) + 1)
    return RowPlan("concat", block, rows, start, np.diff(np.append(start, total)), len(split))


def _pieces(lengths: Ints, block: int) -> tuple[Ints, Ints]:
    """Documents as segments, those longer than the block in several. The last piece is never a
    single token, which would have nothing to predict."""
    count = np.maximum(1, -(-lengths // block))
    document = np.repeat(np.arange(len(lengths)), count)
    index = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    offset = index * block
    offset[(lengths[document] - offset == 1) & (index > 0) & (block > 2)] -= 1
    is_last = index == count[document] - 1
    end = np.where(is_last, lengths[document], np.append(offset[1:], 0))
    return (np.cumsum(lengths) - lengths)[document] + offset, end - offset


def _best_fit(start: Ints, length: Ints, block: int, fill: float, seed: int) -> tuple[Ints, Ints, Ints]:
    most_rows = -(-int(length.sum()) // max(1, int(block * fill))) if fill else len(length)
    shuffled = np.random.default_rng(seed).permutation(len(length))
    order = shuffled[np.argsort(-length[shuffled], kind="stable")]
    rows = _Rows(block, most_rows)
    for at, tokens in zip(start[order].tolist(), length[order].tolist(), strict=True):
        rows.place(at, tokens)
    first = np.cumsum([0] + [len(row) for row in rows.rows], dtype=np.int64)
    flat = np.array([piece for row in rows.rows for piece in row], dtype=np.int64).reshape(-1, 2)
    return first, flat[:, 0], flat[:, 1]


class _Rows:
    """Rows under way and the room they have left. Room is at most the block, so a bit mask over
    sizes finds the tightest row that holds n tokens in constant time."""

    def __init__(self, block: int, most_rows: int):
        self.block, self.most_rows = block, most_rows
        self.rows: list[list[tuple[int, int]]] = []
        self.by_room: list[list[int]] = [[] for _ in range(block + 1)]
        self.rooms = 0  # bit n is set where some row has room for exactly n tokens

    def place(self, start: int, tokens: int) -> None:
        """Whole in the tightest row that holds it; else in a new row while there may be one; else
        cut to the widest gaps."""
        while (room := self._tightest(tokens)) is None and len(self.rows) >= self.most_rows:
            widest = self.rooms.bit_length() - 1
            if widest < SMALLEST_PIECE:
                break
            piece = widest - 1 if tokens - widest == 1 else widest
            self._put(start, piece, widest)
            start, tokens = start + piece, tokens - piece
        self._put(start, tokens, room)

    def _tightest(self, tokens: int) -> int | None:
        fitting = self.rooms >> tokens
        return tokens + (fitting & -fitting).bit_length() - 1 if fitting else None

    def _put(self, start: int, tokens: int, room: int | None) -> None:
        row = self._new() if room is None else self._take(room)
        self.rows[row].append((start, tokens))
        left = (room or self.block) - tokens
        if left:
            self.by_room[left].append(row)
            self.rooms |= 1 << left

    def _new(self) -> int:
        self.rows.append([])
        return len(self.rows) - 1

    def _take(self, room: int) -> int:
        row = self.by_room[room].pop()
        if not self.by_room[room]:
            self.rooms ^= 1 << room
        return row


def _split_count(lengths: Ints, start: Ints) -> int:
    """Documents that more than one segment came from."""
    document = np.searchsorted(np.cumsum(lengths), start, side="right")
    return int((np.bincount(document, minlength=1) > 1).sum())
