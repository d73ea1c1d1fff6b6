"""The console that the commands print to."""

from __future__ import annotations

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 110  # columns: wide enough for a comparison of five modes


def new_console(width: int = WIDTH_WITHOUT_TERMINAL) -> Console:
    """Return a console as wide as the terminal, or of ``width`` columns if output is redirected."""
    return Console(width=None if Console().is_terminal else width, highlight=False)
