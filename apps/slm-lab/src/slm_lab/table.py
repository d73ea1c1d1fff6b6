"""A comparison in a terminal: figures down, modes across."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slm_lab.advice import advise
from slm_lab.comparison import Comparison
from slm_lab.figures import ROWS, SPREAD, Mode, Row, best


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, what is to be known about it, and what to choose when."""
    if comparison.modes:
        console.print(_table(comparison))
    for name, reason in comparison.left_out.items():
        console.print(f"[bold]{escape(name)}[/] is left out: {escape(reason)}", soft_wrap=True)
    for caveat in comparison.caveats:
        console.print(caveat, style="yellow")
    console.print()
    for sentence in advise(comparison.modes):
        console.print(f"• {escape(sentence)}")


def _table(comparison: Comparison) -> Table:
    seeds = comparison.seeds
    caption = "bold: best of a row" + (f"; medians of {seeds} seeds (least to most)" if seeds > 1 else "; one seed")
    table = Table(
        title=escape(", ".join(filter(None, [comparison.budget, *sorted({run.base for run in comparison.runs})]))),
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for mode in comparison.modes:
        table.add_column(escape(mode.name), justify="right")
    for number, row in enumerate(ROWS):
        leading = best(comparison.modes, row)
        cells = [_cell(mode, row, mode.name in leading) for mode in comparison.modes]
        last = number + 1 == len(ROWS) or ROWS[number + 1].group != row.group
        if any(cells):
            table.add_row(_label(row), *cells, end_section=last)
    return table


def _label(row: Row) -> str:
    return f"memory {row.label}" if row.key == "peak" else row.label


def _cell(mode: Mode, row: Row, leading: bool) -> str:
    spread = mode.values.get(row.key)
    if spread is None:
        return ""
    text = f"[bold]{row.text(spread.median)}[/]" if leading else row.text(spread.median)
    low, high = row.text(spread.least), row.text(spread.most)
    return f"{text}\n[dim]{low}–{high}[/]" if row.key in SPREAD and low != high else text
