"""The ways of all runs of a benchmark, side by side: a table for each comparison, before it becomes HTML or text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.comparison import Comparison, Row, as_text, spread
from slm_bench.report.gather import Run
from slm_bench.turns import Ratio


@dataclass(frozen=True)
class Line:
    """One way in one run. ``ratio``: the first, which is drawn; ``cells``: texts of all ratios, then figures."""

    name: str
    run: str
    ratio: Ratio | None
    cells: tuple[str, ...]
    first: bool  # of its way


@dataclass(frozen=True)
class Side:
    """One comparison in all runs that made it. ``ratios``, ``figures``: names of columns."""

    title: str
    ratios: tuple[str, ...]
    figures: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest of what is drawn, 1 among them, with some room."""
        seen = [1.0, *(edge for line in self.lines if line.ratio for edge in line.ratio)]
        return min(seen) / 1.15, max(seen) * 1.15

    def place(self, ratio: float) -> float:
        """From 0 to 1 along the drawing, by the logarithm: half and double lie as far from 1."""
        low, high = map(math.log, self.span)
        return (math.log(ratio) - low) / (high - low)


def sides(runs: Sequence[Run]) -> list[Side]:
    """By title, in the order in which they come."""
    held: dict[str, list[tuple[str, Comparison]]] = {}
    for run in runs:
        for one in run.envelope.comparisons:
            held.setdefault(one.title, []).append((run.label, one))
    return [_side(title, found) for title, found in held.items()]


def headline(side: Side) -> str:
    """The first ratio of each run, in one line."""
    line = next((line for line in side.lines if line.ratio), None)
    if line is None or line.ratio is None:
        return ""
    return f"{line.name}: {side.ratios[0]} {spread(line.ratio)}"


def _side(title: str, found: Sequence[tuple[str, Comparison]]) -> Side:
    ratios = tuple(dict.fromkeys(name for _, one in found for name in one.ratio_names))
    figures = tuple(dict.fromkeys(name for _, one in found for name in one.figure_names))
    names = dict.fromkeys(row.name for _, one in found for row in one.rows)
    lines = []
    for name in names:
        rows = [(label, row) for label, one in found for row in one.rows if row.name == name]
        lines += [_line(label, row, ratios, figures, first=at == 0) for at, (label, row) in enumerate(rows)]
    return Side(title, ratios, figures, tuple(lines))


def _line(label: str, row: Row, ratios: Sequence[str], figures: Sequence[str], *, first: bool) -> Line:
    cells = [spread(row.ratios[name]) if name in row.ratios else "" for name in ratios]
    cells += [as_text(row.figures[name]) if name in row.figures else "" for name in figures]
    return Line(row.name, label, row.ratios.get(ratios[0]) if ratios else None, tuple(cells), first)
