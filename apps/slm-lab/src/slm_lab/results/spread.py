"""The spread of a value over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and range of a value over seeds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def from_values(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of the finite values; None if there are none."""
        known = [value for value in values if value is not None and math.isfinite(value)]
        return cls(statistics.median(known), min(known), max(known)) if known else None

    def overlaps(self, other: Spread) -> bool:
        """Return whether the two ranges have a value in common."""
        return self.minimum <= other.maximum and other.minimum <= self.maximum
