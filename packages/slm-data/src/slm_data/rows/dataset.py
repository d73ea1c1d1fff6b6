"""Rows as a map-style dataset over a token store and a row plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from slm_data.rows.packing import RowPlan
from slm_data.rows.packing_names import Packing
from slm_data.rows.predicted_tokens import Mask
from slm_data.tokens.store import TokenStore


@dataclass(frozen=True)
class Row:
    """One training row: token ids, and the lengths of the segments (documents or pieces of them) in it.

    Attributes:
        scored: Which tokens have a loss; None if all have. The first token of a segment never has one.
    """

    input_ids: npt.NDArray[np.int64]  # [tokens]
    segments: npt.NDArray[np.int64]  # [segments], the length of each
    scored: Mask | None = None  # [tokens]


class RowDataset(Dataset[Row]):
    """The rows of ``plan``, read from the memory-mapped ``store`` on access."""

    def __init__(self, store: TokenStore, plan: RowPlan):
        self.store, self.plan = store, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, row: int) -> Row:
        return cut_row(self.store.tokens, self.plan, row, self.store.scored)

    @property
    def packing(self) -> Packing:
        return self.plan.packing


def cut_row(tokens: npt.NDArray[np.unsignedinteger[Any]], plan: RowPlan, row: int, scored: Mask | None = None) -> Row:
    """Return row number ``row`` of ``plan`` from ``tokens``, the concatenated documents, and their mask."""
    segments = slice(plan.first[row], plan.first[row + 1])
    starts, lengths = plan.start[segments], plan.length[segments]
    parts = [slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    mask = None if scored is None else np.concatenate([scored[part] for part in parts])
    return Row(np.concatenate([tokens[part] for part in parts]).astype(np.int64), lengths, mask)
