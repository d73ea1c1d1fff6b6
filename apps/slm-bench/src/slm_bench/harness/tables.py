"""Tables for the terminal."""

from collections.abc import Sequence
from textwrap import fill

from rich.console import Console
from rich.table import Table

from slm_bench.harness.comparison import Comparison, cells
from slm_bench.harness.guarantees import Guarantee

RATIO_WIDTH = 20  # of "1.23x (1.20 to 1.30)"


def new_console() -> Console:
    """Return a console as wide as the terminal; 130 columns, enough for every table, if output is redirected."""
    return Console(width=None if Console().is_terminal else 130)


def new_table(title: str, left: Sequence[str], right: Sequence[str] = (), note: str = "") -> Table:
    """Return a table without rows whose columns ``left`` are aligned to the left and ``right`` to the right."""
    table = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for column in left:
        table.add_column(column)
    for column in right:
        table.add_column(column, justify="right")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return one line for each contender: ratios first, then figures."""
    ratios, figures = comparison.ratio_names, comparison.figure_names
    headings = [*(fill(name, RATIO_WIDTH) for name in ratios), *figures]
    table = new_table(comparison.title, [""], headings, comparison.note)
    for column in table.columns[1 : 1 + len(ratios)]:
        column.no_wrap = True  # headers and names wrap first
    for row in comparison.rows:
        table.add_row(row.name, *cells(row, ratios, figures))
    return table


def guarantee_table(guarantees: Sequence[Guarantee]) -> Table:
    """Return one line for each guarantee, kept or BROKEN."""
    table = new_table("guarantees", ["", "guarantee", "observed"])
    for guarantee in guarantees:
        table.add_row(guarantee.verdict, guarantee.statement, guarantee.observed)
    return table
