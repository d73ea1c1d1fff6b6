"""The settings that ``--match parameters`` has chosen, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slm_lab.compare.matching import Match


def print_matches(matches: Sequence[Match], console: Console) -> None:
    """Print each variant with the number of parameters that it trains."""
    table = Table(title="settings for equal numbers of parameters", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("mode", no_wrap=True)
    table.add_column("trainable parameters", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for match in matches:
        table.add_row(escape(match.variant.label), f"{match.parameters:,}", escape(match.note))
    console.print(table)
