"""Ways side by side: what a benchmark prints first, plots, and keeps for the report. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rich.table import Table

from slm_bench.turns import Ratio

Figure = float | int | str


@dataclass(frozen=True)
class Row:
    """One way. ``ratios`` by what they are of, none for the way that the others are compared with; ``figures`` by
    name, which says the unit."""

    name: str
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Ways that did the same job in the same turns."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def ratio_names(self) -> list[str]:
        """Of all rows, in the order in which they come."""
        return _union(row.ratios for row in self.rows)

    @property
    def figure_names(self) -> list[str]:
        """Of all rows, in the order in which they come."""
        return _union(row.figures for row in self.rows)


def as_table(comparison: Comparison) -> Table:
    """The ratios first."""
    table = Table(title=comparison.title, title_justify="left", caption=comparison.note or None, caption_justify="left")
    table.add_column("")
    for name in (*comparison.ratio_names, *comparison.figure_names):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        ratios = [spread(row.ratios[name]) if name in row.ratios else "" for name in comparison.ratio_names]
        figures = [as_text(row.figures[name]) if name in row.figures else "" for name in comparison.figure_names]
        table.add_row(row.name, *ratios, *figures)
    return table


def spread(ratio: Ratio) -> str:
    """The median of a ratio, the least and the largest."""
    return "{:.2f}x ({:.2f} to {:.2f})".format(*ratio)


def as_text(figure: Figure) -> str:
    """Counts in full, other numbers with three digits or so."""
    if isinstance(figure, str):
        return figure
    if isinstance(figure, int):
        return f"{figure:,}"
    digits = next((digits for least, digits in ((100, 0), (10, 1), (1, 2)) if abs(figure) >= least), None)
    return f"{figure:.3g}" if digits is None else f"{figure:,.{digits}f}"


def _union(rows: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
