"""What ``slm-bench report`` does: gather, write the page, print a short table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from slm_bench import output
from slm_bench.report.gather import Gathered, gather
from slm_bench.report.page import page
from slm_bench.report.tables import headline, sides


def run(given: argparse.Namespace) -> int:
    """Raises KVError where there is nothing to report."""
    write(given.out, Path(given.html))
    return 0


def write(paths: Sequence[str | Path], html: Path) -> None:
    """The page of all runs in ``paths``, and what it holds in short."""
    gathered = gather([str(path) for path in paths])
    for file, why in gathered.skipped.items():
        print(f"{file} is passed over: {why}", file=sys.stderr)
    output.write(html, page(gathered))
    terminal = output.console()
    terminal.print(_machines(gathered))
    terminal.print(_ratios(gathered))
    print(f"page: {html}")


def _machines(gathered: Gathered) -> Table:
    table = Table(title="machines", title_justify="left")
    for column in ("", "processor", "cores", "computed on"):
        table.add_column(column)
    for machine in gathered.machines:
        table.add_row(machine.name, *(str(machine.facts.get(fact, "")) for fact in ("cpu", "cores", "device")))
    return table


def _ratios(gathered: Gathered) -> Table:
    """The first ratio of each comparison."""
    table = Table(title="ratios, promises kept", title_justify="left")
    for column in ("benchmark", "run", "model", "promises", "first ratios"):
        table.add_column(column)
    for name, runs in gathered.benchmarks.items():
        for run in runs:
            promises = run.envelope.promises
            kept = f"{sum(promise.held for promise in promises)} of {len(promises)}" if promises else ""
            told = "\n".join(filter(None, map(headline, sides([run]))))
            table.add_row(name, run.label, str(run.envelope.settings.get("model", "")), kept, told)
    return table
