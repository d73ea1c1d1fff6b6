"""``plan_rows``: which tokens of the flat token store form which row. Plans contain numbers only, no tensors.

Packing methods are described in ``packing_names``, what happens to documents longer than a row in ``long_rows``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from slm_data.errors import DataError
from slm_data.rows.array_types import Ints
from slm_data.rows.best_fit import pack_best_fit
from slm_data.rows.long_rows import LongRows
from slm_data.rows.packing_names import Packing, as_packing
from slm_data.rows.predicted_tokens import Mask, predicted_tokens, row_sums


@dataclass(frozen=True)
class RowPlan:
    """Rows as segments of the token store.

    A segment is a range of consecutive tokens: of one document, or of several with ``concat``.

    Row ``r`` consists of the segments from ``first[r]`` up to, but not including, ``first[r + 1]``; segment ``s`` is
    ``tokens[start[s] : start[s] + length[s]]``. Segments of one row do not attend to each other.

    Attributes:
        predicted: Tokens with a loss in each row.
        split_documents: Documents that are spread over several segments.
        long_documents: Documents longer than a row, which were cut or dropped as ``--long_rows`` says.
        unscored_rows: Rows, or documents to be packed into rows, that were dropped because none of their tokens has a
            loss.
    """

    packing: Packing
    block_size: int
    first: Ints  # [rows + 1]
    start: Ints  # [segments]
    length: Ints  # [segments]
    predicted: Ints  # [rows]
    split_documents: int
    long_documents: int = 0
    unscored_rows: int = 0

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def row_lengths(self) -> Ints:
        """Tokens in each row, ``[rows]``."""
        return row_sums(self.first, self.length)

    @property
    def tokens(self) -> int:
        return int(self.length.sum())

    @property
    def predicted_tokens(self) -> int:
        """Tokens with a loss: the scored ones, except the first of each segment, which has no context."""
        return int(self.predicted.sum())

    @property
    def utilisation(self) -> float:
        """Tokens divided by ``rows x block_size``."""
        return self.tokens / max(1, len(self) * self.block_size)


def plan_rows(
    lengths: npt.ArrayLike,
    block_size: int,
    packing: Packing,
    *,
    fill: float = 0.95,
    seed: int = 0,
    scored: Mask | None = None,
    long_rows: LongRows = "split",
) -> RowPlan:
    """Distribute documents over rows of at most ``block_size`` tokens.

    Args:
        lengths: Tokens of each document, ``[documents]``.
        block_size: Tokens of a full row.
        packing: See ``packing_names``.
        fill: Target utilisation of ``best_fit``. It limits the number of rows; once that is reached, a document that
            fits into no gap is split over the widest gaps. With 0, only documents longer than the block are split.
        seed: Selects which documents of equal length share a row (``best_fit``).
        scored: The mask of the token store, ``[tokens]``; None if all tokens are scored. With a mask, rows in which no
            token has a loss are dropped.
        long_rows: What happens to documents longer than a row, see ``long_rows``.

    Raises:
        DataError: The block is too short to predict anything, the packing is unknown, or documents are to be cut or
            dropped although ``concat`` makes one stream of them.
    """
    if block_size < 2:
        raise DataError(f"--block_size {block_size} leaves nothing to predict; use 2 or more")
    as_packing(packing)
    documents = np.asarray(lengths, dtype=np.int64)
    if packing == "concat":
        if long_rows != "split":
            raise DataError(f"--long_rows {long_rows} does not work with --packing concat; use best_fit or none")
        return _concatenate(documents, block_size, scored)
    start, length, long_documents = _fit_long_documents(documents, block_size, long_rows)
    kept = predicted_tokens(start, length, scored) > 0 if scored is not None else np.ones(len(start), np.bool_)
    start, length = start[kept], length[kept]
    first = np.arange(len(start) + 1)
    if packing == "best_fit":
        first, start, length = pack_best_fit(start, length, block_size, fill, seed)
    predicted = row_sums(first, predicted_tokens(start, length, scored))
    split = _count_split_documents(documents, start)
    plan = RowPlan(packing, block_size, first, start, length, predicted, split, long_documents, int((~kept).sum()))
    # best_fit may split a document so that only one of its pieces has scored tokens; alone in a row it has none.
    return plan if scored is None else _without_unscored_rows(plan)


def select_rows(plan: RowPlan, chosen: npt.NDArray[np.int64]) -> RowPlan:
    """Return a plan of the rows ``chosen [rows]`` of ``plan``, in that order."""
    counts = np.diff(plan.first)[chosen]
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    segments = np.repeat(plan.first[chosen] - first[:-1], counts) + np.arange(first[-1])
    predicted = plan.predicted[chosen]
    return replace(plan, first=first, start=plan.start[segments], length=plan.length[segments], predicted=predicted)


def _without_unscored_rows(plan: RowPlan) -> RowPlan:
    scored = np.flatnonzero(plan.predicted > 0)
    if len(scored) == len(plan):
        return plan
    return replace(select_rows(plan, scored), unscored_rows=plan.unscored_rows + len(plan) - len(scored))


def _concatenate(lengths: Ints, block_size: int, scored: Mask | None) -> RowPlan:
    total, ends = int(lengths.sum()), np.cumsum(lengths)
    start = np.arange(0, total, block_size, dtype=np.int64)
    if total % block_size == 1 and total > 1 and block_size > 2:
        start[-1] -= 1  # a last row of one token would have nothing to predict: its mean loss is 0 / 0
    document = np.searchsorted(ends, start, side="right")
    split = np.unique(document[start > (ends - lengths)[document]])
    length = np.diff(np.append(start, total))
    predicted = predicted_tokens(start, length, scored)
    plan = RowPlan("concat", block_size, np.arange(len(start) + 1), start, length, predicted, len(split))
    return plan if scored is None else _without_unscored_rows(plan)


def _fit_long_documents(lengths: Ints, block_size: int, long_rows: LongRows) -> tuple[Ints, Ints, int]:
    """Return start and length of each segment of at most ``block_size`` tokens, and the documents cut or dropped."""
    if long_rows == "split":
        return *_split_long_documents(lengths, block_size), 0
    is_long, start = lengths > block_size, np.cumsum(lengths) - lengths
    long_documents = int(is_long.sum())
    if long_rows == "cut":
        return start, np.minimum(lengths, block_size), long_documents
    return start[~is_long], lengths[~is_long], long_documents


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
