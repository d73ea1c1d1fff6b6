"""Interleaved timing of competing functions, and ratios paired by round.

Contenders alternate within each round, so that other load on the machine affects all of them alike. A ratio is
therefore taken within a round; its spread over the rounds shows how noisy the machine was.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Ratio = tuple[float, float, float]  # median, minimum and maximum over the rounds
Name = TypeVar("Name")
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Times:
    """Seconds of one contender's timed rounds, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def per_call(self, calls: int) -> "Times":
        """Divide by the number of calls in a round."""
        return Times(tuple(seconds / calls for seconds in self.seconds))

    def speed_over(self, other: "Times") -> Ratio:
        """Return how many times as fast as ``other`` this contender is."""
        return paired_ratio(other.seconds, self.seconds)


def paired_ratio(numerators: Iterable[float], denominators: Iterable[float]) -> Ratio:
    """Divide round by round and summarise the quotients."""
    return spread_of([numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)])


def spread_of(values: Sequence[float]) -> Ratio:
    """Return median, minimum and maximum."""
    return statistics.median(values), min(values), max(values)


def order_of_round(contenders: Sequence[Name], number: int) -> Sequence[Name]:
    """Reverse every second round, so that no contender always runs after the same other one."""
    return contenders if number % 2 else contenders[::-1]


def interleave(
    contenders: Mapping[str, Callable[[int], Measured]], rounds: int, title: str
) -> dict[str, list[Measured]]:
    """Call each contender with the number of each round and collect the results; progress goes to stderr."""
    results: dict[str, list[Measured]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in order_of_round(list(contenders), number):
            print(f"{title}, round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(contenders[name](number))
    return results


def time_interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int, title: str = "") -> dict[str, Times]:
    """Time each contender ``rounds`` times, after one round to warm up.

    Args:
        title: What is timed, for progress lines on stderr; empty for no progress, which suits short rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        if title:
            progress = f"round {number} of {rounds}" if number else "warming up"
            print(f"{title}: {progress}", file=sys.stderr, flush=True)
        for name in order_of_round(list(contenders), number):
            start = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: Times(tuple(values[1:])) for name, values in seconds.items()}
