"""The held-out rows that one of several processes evaluates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from slm_data import Row, RowDataset


class EvaluationShare(Dataset[Row]):
    """Every n-th row, n being the number of processes, so that no row is counted twice.

    Shares differ by a row at most. With ``equal``, for a model whose processes must make equally many forward passes,
    a shorter share is completed by a row without a loss.
    """

    def __init__(self, rows: RowDataset, rank: int = 0, ranks: int = 1, *, equal: bool = False):
        self.rows, self.numbers = rows, range(rank, len(rows), ranks)
        self.length = -(-len(rows) // ranks) if equal else len(self.numbers)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Row:
        if position < len(self.numbers):
            return self.rows[self.numbers[position]]
        first = self.rows[0]
        return replace(first, scored=np.zeros(len(first.input_ids), bool))
