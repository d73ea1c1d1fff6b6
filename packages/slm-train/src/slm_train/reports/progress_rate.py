"""Rates and remaining times of training and evaluation."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

_MEMORY = 0.9  # weight of earlier measurements when a new one is added: the rate is that of the last ten or so


class ProgressRate:
    """Completed units out of ``total``, and the recent rate, without pauses.

    ``seconds`` is the time spent on them.
    """

    def __init__(self, total: int, completed: int):
        self.total, self.completed = total, completed
        self.seconds = 0.0
        self._recent_units = self._recent_seconds = 0.0
        self._measured_from = time.perf_counter()

    def advance(self, completed: int) -> None:
        """Note that ``completed`` units are complete; the time since the last call was spent on them."""
        now = time.perf_counter()
        seconds, units = now - self._measured_from, completed - self.completed
        self._measured_from, self.completed = now, completed
        self.seconds += seconds
        self._recent_units = _MEMORY * self._recent_units + units
        self._recent_seconds = _MEMORY * self._recent_seconds + seconds

    def skip(self) -> None:
        """Leave out the time since the last call: it was spent on something else."""
        self._measured_from = time.perf_counter()

    @property
    def per_second(self) -> float | None:
        """Units per second; None before the first."""
        return self._recent_units / self._recent_seconds if self._recent_units and self._recent_seconds else None

    @property
    def left(self) -> float | None:
        """Remaining seconds; None if the rate is not known."""
        rate = self.per_second
        return max(0, self.total - self.completed) / rate if rate else None

    def speed(self, unit: str) -> str:
        """Return the rate as text, as seconds per unit if that is the larger number; empty if it is not known."""
        rate = self.per_second
        if rate is None:
            return ""
        if rate < 1:
            return f"{1 / rate:.1f} s/{unit.removesuffix('s')}"
        return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"


class EvaluatedTokens(ProgressRate):
    """Progress of an evaluation: tokens of the batches of ``loader``, whose dataset is an EvaluationShare."""

    def __init__(self, loader: DataLoader[Any]):
        self.loader = loader
        share: Any = loader.dataset
        lengths = share.rows.plan.row_lengths[np.asarray(share.numbers, dtype=np.int64)]
        self._tokens = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self._rows = 0
        super().__init__(int(self._tokens[-1]), 0)

    def add_batch(self) -> None:
        """Note that a batch is complete. The first one has no time, because this object is made after it."""
        is_first = self._rows == 0
        self._rows = min(self._rows + int(self.loader.batch_size or 1), len(self._tokens) - 1)
        completed = int(self._tokens[self._rows])
        if is_first:
            self.completed = completed
            self.skip()
        else:
            self.advance(completed)
