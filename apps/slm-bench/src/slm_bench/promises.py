"""What is claimed without exception: it holds, or the exit code is 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Promise:
    """A sentence, whether it held, and what was seen."""

    says: str
    held: bool
    seen: str


def as_table(promises: Sequence[Promise]) -> Table:
    """Each kept or BROKEN."""
    table = Table(title="promises", title_justify="left")
    for column in ("", "promise", "seen"):
        table.add_column(column)
    for promise in promises:
        table.add_row("kept" if promise.held else "BROKEN", promise.says, promise.seen)
    return table
