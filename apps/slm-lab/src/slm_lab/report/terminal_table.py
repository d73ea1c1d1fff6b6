"""A comparison in the terminal: metrics as rows, modes as columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slm_lab.results.advice import advise
from slm_lab.results.comparison import Comparison
from slm_lab.results.metrics import METRICS, Metric
from slm_lab.results.mode_results import ModeResults, best_modes


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, the runs that are left out, caveats and recommendations."""
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
    seeds = comparison.seed_count
    bases = sorted({run.base for run in comparison.runs})
    table = Table(
        title=escape(", ".join(filter(None, [comparison.budget, *(f"base {base}" for base in bases)]))),
        title_justify="left",
        caption=_caption(seeds),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for mode in comparison.modes:
        table.add_column(escape(mode.label), justify="right")
    for index, metric in enumerate(METRICS):
        best = best_modes(comparison.modes, metric)
        cells = [_cell(mode, metric, mode.name in best) for mode in comparison.modes]
        ends_group = index + 1 == len(METRICS) or METRICS[index + 1].group != metric.group
        if any(cells):
            table.add_row(metric.label, *cells, end_section=ends_group)
    return table


def _caption(seeds: int) -> str:
    if seeds > 1:
        return f"medians of {seeds} seeds (minimum–maximum); bold: best of a row, by more than the seeds vary"
    return "bold: best of a row; one seed cannot show which quality, peak memory or speed is best"


def _cell(mode: ModeResults, metric: Metric, is_best: bool) -> str:
    median = mode.median(metric.key)
    if median is None:
        return ""
    text = f"[bold]{metric.format(median)}[/]" if is_best else metric.format(median)
    values = mode.range_text(metric, " – ")  # wrapped at the spaces where columns are narrow
    return f"{text}\n[dim]{values}[/]" if values else text
