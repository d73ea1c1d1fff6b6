"""Comparisons of several runs side by side: one table for all comparisons of the same title."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slm_bench.harness.comparison import Comparison, Row, cells, format_ratio
from slm_bench.harness.interleaved_timing import Ratio
from slm_bench.report.gathering import Run


@dataclass(frozen=True)
class Line:
    """A line of the table: one contender in one run."""

    name: str
    run: str
    ratio: Ratio | None  # the first ratio, which is drawn
    cells: tuple[str, ...]  # texts of all ratios, then of all figures
    first: bool  # whether it is the first line of its contender


@dataclass(frozen=True)
class SideBySide:
    """One comparison in all runs that contain it; ``ratios`` and ``figures`` are names of columns."""

    title: str
    ratios: tuple[str, ...]
    figures: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest ratio of the drawing, including 1, with a margin of 15 %."""
        edges = [1.0, *(edge for line in self.lines if line.ratio for edge in line.ratio)]
        return min(edges) / 1.15, max(edges) * 1.15

    def position(self, ratio: float) -> float:
        """Map a ratio to 0 to 1 along the drawing, logarithmically: half and double are equally far from 1."""
        low, high = map(math.log, self.span)
        return (math.log(ratio) - low) / (high - low)

    @property
    def headline(self) -> str:
        """The first ratio in one line; empty if there is none."""
        line = next((line for line in self.lines if line.ratio), None)
        return f"{line.name}: {self.ratios[0]} {format_ratio(line.ratio)}" if line and line.ratio else ""


def side_by_side(runs: Sequence[Run]) -> list[SideBySide]:
    """Group the comparisons of ``runs`` by title, in order of appearance."""
    by_title: dict[str, list[tuple[str, Comparison]]] = {}
    for run in runs:
        for comparison in run.result.results.comparisons:
            by_title.setdefault(comparison.title, []).append((run.label, comparison))
    return [_combine(title, labelled) for title, labelled in by_title.items()]


def _combine(title: str, labelled: Sequence[tuple[str, Comparison]]) -> SideBySide:
    ratios = tuple(dict.fromkeys(name for _, comparison in labelled for name in comparison.ratio_names))
    figures = tuple(dict.fromkeys(name for _, comparison in labelled for name in comparison.figure_names))
    by_contender: dict[str, list[tuple[str, Row]]] = {}
    for label, comparison in labelled:
        for row in comparison.rows:
            by_contender.setdefault(row.name, []).append((label, row))
    lines = (
        Line(name, label, row.ratios.get(ratios[0]) if ratios else None, tuple(cells(row, ratios, figures)), not number)
        for name, rows in by_contender.items()
        for number, (label, row) in enumerate(rows)
    )
    return SideBySide(title, ratios, figures, tuple(lines))
