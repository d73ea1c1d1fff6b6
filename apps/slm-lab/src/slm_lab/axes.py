"""Scales of charts: from values to places, and round numbers to write beside them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Scale:
    """From ``low`` to ``high`` onto ``start`` to ``end``; by powers of ten where ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._of(number) for number in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value

    @property
    def ticks(self) -> list[float]:
        """Round numbers within, five or so."""
        return _powers(self.low, self.high) if self.log else _rounds(self.low, self.high)


def scale(values: Sequence[float], start: float, end: float, *, log: bool = False, room: float = 0.08) -> Scale:
    """One that all of ``values`` fit, with some room; from a range of no width it makes one."""
    low, high = min(values), max(values)
    if log:
        edge = 10 ** max(room * math.log10(high / low), 0.15)
        return Scale(low / edge, high * edge, start, end, log=True)
    size, wide = max(abs(low), abs(high)), high - low
    edge = room * (wide if wide > 1e-6 * size else size or 1.0)
    return Scale(low - edge, high + edge, start, end)


def from_zero(values: Sequence[float], start: float, end: float) -> Scale:
    """One that begins at 0 and ends with the largest value."""
    return Scale(0, max([*values, 1e-9]), start, end)


def _rounds(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * at for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten; where fewer than two are within, 1, 2 and 5 times them."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        within = [value for value in found if low <= value <= high]
        if len(within) > 1:
            return within
    return _rounds(low, high)


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to ``wanted`` as leaves ``gap`` between any two, in the order of ``wanted``, from ``low`` to
    ``high`` as far as there is room."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    placed: dict[int, float] = {}
    edge = -math.inf
    for at in order:
        placed[at] = edge = max(wanted[at], edge + gap, low)
    edge = high + gap
    for at in reversed(order):
        placed[at] = edge = min(placed[at], edge - gap)
    return [placed[at] for at in range(len(wanted))]


def short(value: float) -> str:
    """A number for an axis: 1,200 as 1.2k."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def plain(ticks: Sequence[float]) -> Callable[[float], str]:
    """As many decimals as tell ``ticks`` apart."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    decimals += round(step, decimals) != round(step, 9)
    return lambda value: f"{value:.{decimals}f}"
