"""Axes of charts: scales from values to positions, round tick values, and tick labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

MARGIN = 0.08  # of the range of the values, at either end of a scale
SMALLEST = 1e-290  # the margin of anything smaller would underflow to 0, and the scale would have no width


@dataclass(frozen=True)
class Scale:
    """A map from the values ``low`` to ``high`` onto the positions ``start`` to ``end``, logarithmic if ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._transform(number) for number in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def _transform(self, value: float) -> float:
        return math.log10(value) if self.log else value

    @property
    def ticks(self) -> list[float]:
        """About five round values within the scale."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def fit_scale(values: Sequence[float], start: float, end: float, *, log: bool = False, margin: float = MARGIN) -> Scale:
    """Make a scale that contains all ``values``, with a margin at either end.

    The scale has a width above zero even if the values have none.
    """
    low, high = min(values), max(values)
    if log:
        factor = 10 ** max(margin * math.log10(high / low), 0.15)
        return Scale(low / factor, high * factor, start, end, log=True)
    magnitude, width = max(abs(low), abs(high)), high - low
    if magnitude < SMALLEST:
        width = 1.0
    elif width <= 1e-6 * magnitude:  # values that differ by float noise alone would otherwise fill the whole axis
        width = magnitude
    padding = margin * width
    return Scale(low - padding, high + padding, start, end)


def scale_from_zero(values: Sequence[float], start: float, end: float) -> Scale:
    """Make a scale from 0 to the largest value."""
    return Scale(0, max([*values, 1e-9]), start, end)


def _linear_ticks(low: float, high: float) -> list[float]:
    minimum_step = (high - low) / 5
    power = 10 ** math.floor(math.log10(minimum_step))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= minimum_step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten; with fewer than two of them in the range, also their multiples by 3, or by 2 and 5."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        candidates = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        ticks = [value for value in candidates if low <= value <= high]
        if len(ticks) > 1:
            return ticks
    return _linear_ticks(low, high)


def short_label(value: float) -> str:
    """Format a value with three digits and a unit: 1,200 as 1.2k."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def bytes_label(value: float) -> str:
    """Format bytes with a unit and up to four digits: ticks 25 MB apart stay distinct above 1 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value:.4g} B"


def decimal_labels(ticks: Sequence[float]) -> Callable[[float], str]:
    """Return a formatter with just as many decimals as ``ticks`` need to differ."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    decimals += round(step, decimals) != round(step, 9)  # steps of 0.25 need a second decimal
    return lambda value: f"{value:.{decimals}f}"
