"""The figures of a mode: what each of its runs came to, as a median and a spread over seeds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slm_lab.runs import Moment, Run

Better = Literal["least", "most", ""]


@dataclass(frozen=True)
class Spread:
    """A value over seeds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None where there are no finite values."""
        known = [value for value in values if value is not None and math.isfinite(value)]
        return cls(statistics.median(known), min(known), max(known)) if known else None

    def overlaps(self, other: Spread) -> bool:
        return self.least <= other.most and other.least <= self.most


@dataclass(frozen=True)
class Outcome:
    """A finished run with what else lies in its folder."""

    run: Run
    curve: tuple[Moment, ...] = ()
    shipped: float | None = None
    checkpoint: float | None = None

    @property
    def seconds(self) -> float | None:
        """Of training. A resumed run records those of its last part: its steps took as long as the others."""
        run = self.run
        if run.seconds is None or not run.steps:
            return run.seconds
        steps = max(run.steps, self.curve[-1].step if self.curve else 0)
        return run.seconds / run.steps * steps


def size(value: float) -> str:
    """Bytes as a number of three digits with a unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            number = value / factor
            return f"{number:,.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def share(value: float) -> str:
    return f"{value:.2f} %" if value < 99.995 else "100 %"


@dataclass(frozen=True)
class Row:
    """A figure by name. ``better``: which end of it is; ``group`` is a heading."""

    key: str
    label: str
    group: str
    text: Callable[[float], str]
    value: Callable[[Outcome], float | None]
    better: Better = "least"


def _share(outcome: Outcome) -> float | None:
    trainable, total = outcome.run.trainable, outcome.run.total
    return 100 * trainable / total if trainable is not None and total else None


ROWS = (
    Row("bits_before", "bits per byte, before", "quality", "{:.4f}".format,
        lambda o: o.run.bits("before"), ""),
    Row("bits_after", "bits per byte, after", "quality", "{:.4f}".format,
        lambda o: o.run.bits("after")),
    Row("perplexity_before", "perplexity, before", "quality", "{:,.2f}".format,
        lambda o: o.run.perplexity("before"), ""),
    Row("perplexity_after", "perplexity, after", "quality", "{:,.2f}".format,
        lambda o: o.run.perplexity("after")),
    Row("trainable", "trainable parameters", "parameters", "{:,.0f}".format, lambda o: o.run.trainable),
    Row("share", "of all parameters", "parameters", share, _share),
    Row("weights", "weights", "memory", size, lambda o: o.run.weights),
    Row("gradients", "gradients", "memory", size, lambda o: o.run.gradients),
    Row("optimizer", "optimizer state", "memory", size, lambda o: o.run.optimizer),
    Row("peak", "at its peak", "memory", size, lambda o: o.run.peak),
    Row("tokens_per_second", "tokens a second", "speed", "{:,.0f}".format, lambda o: o.run.tokens_per_second, "most"),
    Row("seconds", "training time", "speed", duration, lambda o: o.seconds),
    Row("shipped", "weights to ship", "disk", size, lambda o: o.shipped),
    Row("checkpoint", "a checkpoint", "disk", size, lambda o: o.checkpoint),
)  # fmt: skip
SPREAD = {"bits_after", "perplexity_after", "peak", "tokens_per_second"}  # figures that seeds change


@dataclass(frozen=True)
class Mode:
    """A mode (or any way of training that has a name) with its runs, and a spread for each row."""

    name: str
    outcomes: tuple[Outcome, ...]
    values: Mapping[str, Spread]

    @classmethod
    def of(cls, name: str, outcomes: Sequence[Outcome]) -> Mode:
        found = {row.key: Spread.of(row.value(outcome) for outcome in outcomes) for row in ROWS}
        return cls(name, tuple(outcomes), {key: spread for key, spread in found.items() if spread})

    @property
    def gain(self) -> float:
        """Bits per byte that training took off, in the median."""
        return self.values["bits_before"].median - self.values["bits_after"].median

    def median(self, key: str) -> float | None:
        return self.values[key].median if key in self.values else None


def best(modes: Sequence[Mode], row: Row) -> set[str]:
    """Names of those whose figure reads best; none where all read alike, or nothing is better."""
    known = {mode.name: mode.values[row.key].median for mode in modes if row.key in mode.values}
    texts = {name: row.text(value) for name, value in known.items()}
    if not row.better or len(set(texts.values())) < 2:
        return set()
    leading = min(known.values()) if row.better == "least" else max(known.values())
    return {name for name in known if texts[name] == row.text(leading)}
