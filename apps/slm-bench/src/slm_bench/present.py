"""How a benchmark ends: tables, promises, JSON, a plot, and the exit code."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from slm_bench import comparison, promises
from slm_bench.envelope import Envelope, save
from slm_bench.output import console
from slm_bench.plots import plot_comparisons


def present(envelope: Envelope, json: str | None, plot: str) -> int:
    """Show ``envelope``, write it down and plot it; 1 where a promise was not kept."""
    show(envelope, console())
    if json:
        save(envelope, json)
    if envelope.comparisons:
        print("plot: " + ", ".join(map(str, plot_comparisons(envelope, Path(plot)))))
    return 0 if envelope.kept else 1


def show(envelope: Envelope, terminal: Console) -> None:
    """Print what was found, the ratios first; peers that are missing to the standard error."""
    machine = envelope.machine
    print(f"{machine['cpu']}, {machine['cores']} cores; {described(envelope)}; medians of turns (least to most)")
    for one in envelope.comparisons:
        terminal.print(comparison.as_table(one))
    if envelope.promises:
        terminal.print(promises.as_table(envelope.promises))
    for name, why in envelope.left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr)


def described(envelope: Envelope) -> str:
    """The settings in one line."""
    told = {name: value for name, value in envelope.settings.items() if value not in (None, False)}
    return ", ".join(name if value is True else f"{name} {_plain(value)}" for name, value in told.items())


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
