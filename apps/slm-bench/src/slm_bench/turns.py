"""Times of several ways to do one job, taken in turns, so that a busy moment hits all alike."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Ratio = tuple[float, float, float]  # its median, least and largest over the turns


@dataclass(frozen=True)
class Times:
    """Seconds of the timed turns of one way, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def each(self, calls: int) -> Times:
        """The times of one call, where a turn was ``calls`` of them."""
        return Times(tuple(seconds / calls for seconds in self.seconds))

    def over(self, other: Times) -> Ratio:
        """How many times as fast as ``other``: the median, least and largest of the turns' ratios."""
        return ratio([theirs / own for own, theirs in zip(self.seconds, other.seconds, strict=True)])


def ratio(turns: Sequence[float]) -> Ratio:
    """That of each turn as one with its spread."""
    return statistics.median(turns), min(turns), max(turns)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, title: str = "") -> dict[str, Times]:
    """Each way ``rounds`` times, after one that warms up; the order is reversed at every second turn. Of long turns
    the standard error tells, by ``title``."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        if title:
            print(f"{title}: {f'turn {turn} of {rounds}' if turn else 'warming up'}", file=sys.stderr, flush=True)
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            start = time.perf_counter()
            ways[name]()
            if turn:
                found[name].append(time.perf_counter() - start)
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}
