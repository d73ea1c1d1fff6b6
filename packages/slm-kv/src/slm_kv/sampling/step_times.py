"""The measured time of decode steps, by their number of rows."""

from __future__ import annotations

import time

FIRST_ROW_COST = 0.25  # time of one more row, as a part of the time of a step of one row, before it is known
PRIOR = 0.1  # the weight of that assumption: the variance of rows at which a measurement counts as much
MEMORY = 0.95  # what a step leaves of the weight of earlier steps
OUTLIER = 2.0  # a time counts at most as this multiple of the expected one: other processes can hold up a step
MIN_COST = 0.02


class StepTimes:
    """Estimates the time of one more row in a decode step: the slope of a line through the recent steps' times.

    It depends on the CPU, the format of the weights and the lengths of the texts: from a twentieth of a step's time to
    most of it.
    """

    def __init__(self) -> None:
        # Sums over the steps, each with its weight: 1, the rows, their squares, the seconds, rows times seconds.
        self._weight = self._rows = self._squares = self._seconds = self._products = 0.0
        self._items, self._step_rows, self._start = 0, 0, 0.0

    def start(self, items: int, rows: int) -> None:
        """Start the clock for a step of ``rows`` rows, which ends after so many ``end_item``."""
        self._items, self._step_rows, self._start = items, rows, time.perf_counter()

    def end_item(self) -> None:
        """Stop the clock if this was the step's last item."""
        self._items -= 1
        if self._items == 0:
            self.record(self._step_rows, time.perf_counter() - self._start)

    def record(self, rows: int, seconds: float) -> None:
        """Take the time of a step of ``rows`` rows."""
        if self._weight and seconds * OUTLIER < self._expected(rows):
            self._clear()  # the steps before were held up
        if self._weight:
            seconds = min(seconds, OUTLIER * self._expected(rows))
        self._weight = MEMORY * self._weight + 1
        self._rows = MEMORY * self._rows + rows
        self._squares = MEMORY * self._squares + rows * rows
        self._seconds = MEMORY * self._seconds + seconds
        self._products = MEMORY * self._products + rows * seconds

    def row_cost(self, sequences: int) -> float:
        """The time of one more row in a step of a row for each of ``sequences``, in tokens that this time would give.

        It approaches 1 with many sequences: a step then takes as long as its rows, and a draft can only lose.
        """
        if not self._weight:
            return sequences * FIRST_ROW_COST / (1 + (sequences - 1) * FIRST_ROW_COST)
        cost = sequences * self._slope() / max(self._expected(sequences), 1e-9)
        return max(MIN_COST, cost)

    def _clear(self) -> None:
        self._weight = self._rows = self._squares = self._seconds = self._products = 0.0

    def _expected(self, rows: float) -> float:
        """The time of a step of ``rows`` rows, at least half of the mean time."""
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        return max(mean_seconds + (rows - mean_rows) * self._slope(), mean_seconds / 2)

    def _slope(self) -> float:
        """Least squares, drawn to the cost that is assumed as far as all steps have the same number of rows."""
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - mean_rows**2
        covariance = self._products / self._weight - mean_rows * mean_seconds
        first = FIRST_ROW_COST * mean_seconds / (1 + (mean_rows - 1) * FIRST_ROW_COST)
        return max(0.0, covariance + PRIOR * first) / (variance + PRIOR)
