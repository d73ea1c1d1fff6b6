"""Comparisons of contenders, which benchmarks print, plot and store in their result files."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from slm_bench.harness.interleaved_timing import Ratio

Figure = float | int | str


def _without_nulls(values: Any) -> Any:
    """Drop null entries: numbers that were not finite are written as null."""
    if not isinstance(values, dict):
        return values
    return {name: value for name, value in values.items() if None not in (value if type(value) is list else [value])}


def _within_spread(ratio: Ratio) -> Ratio:
    median, low, high = ratio
    if not 0 < low <= median <= high < math.inf:
        raise ValueError(f"{ratio} is not a median with its minimum and maximum")
    return ratio


# A result file comes from any machine: pydantic validates these annotations when the file is read.
Ratios = Annotated[Mapping[str, Annotated[Ratio, AfterValidator(_within_spread)]], BeforeValidator(_without_nulls)]
Figures = Annotated[Mapping[str, Figure], BeforeValidator(_without_nulls)]


@dataclass(frozen=True)
class Row:
    """One contender."""

    name: str
    ratios: Ratios = field(default_factory=dict)  # by column; empty for the reference of the others
    figures: Figures = field(default_factory=dict)  # by column, whose name includes the unit


@dataclass(frozen=True)
class Comparison:
    """Contenders that were measured on the same task in the same rounds."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def ratio_names(self) -> list[str]:
        """Columns of ratios of all rows, in order of appearance."""
        return _union(row.ratios for row in self.rows)

    @property
    def figure_names(self) -> list[str]:
        """Columns of figures of all rows, in order of appearance."""
        return _union(row.figures for row in self.rows)


def cells(row: Row, ratio_names: Iterable[str], figure_names: Iterable[str]) -> list[str]:
    """Return the texts of ``row`` in these columns; empty where it has no value."""
    ratios = [format_ratio(row.ratios[name]) if name in row.ratios else "" for name in ratio_names]
    return ratios + [format_figure(row.figures[name]) if name in row.figures else "" for name in figure_names]


def format_ratio(ratio: Ratio) -> str:
    """Format as median, minimum and maximum."""
    return "{:.2f}x ({:.2f} to {:.2f})".format(*ratio)


def format_figure(figure: Figure) -> str:
    """Format integers in full and other numbers with about three significant digits."""
    if isinstance(figure, str):
        return figure
    if isinstance(figure, int):
        return f"{figure:,}"
    digits = next((digits for limit, digits in ((100, 0), (10, 1), (1, 2)) if abs(figure) >= limit), None)
    return f"{figure:.3g}" if digits is None else f"{figure:,.{digits}f}"


def _union(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
