"""``slm-bench report``: gather result files, write the page, print a summary."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from slm_bench.harness.result_file import write_text
from slm_bench.harness.tables import new_console, new_table
from slm_bench.report.gathering import Gathered, gather
from slm_bench.report.html_page import render_page
from slm_bench.report.side_by_side import side_by_side


def run(arguments: argparse.Namespace) -> int:
    """Write the report; return the exit code. Raises BenchError if there is nothing to report."""
    write_report(arguments.paths, Path(arguments.html))
    return 0


def write_report(paths: Sequence[str], html: Path) -> None:
    """Write the page of all runs in ``paths`` and print a summary."""
    gathered = gather(paths)
    for file, reason in gathered.skipped.items():
        print(f"{file} is skipped: {reason}", file=sys.stderr)
    write_text(html, render_page(gathered))
    console = new_console()
    console.print(_machine_table(gathered))
    console.print(_ratio_table(gathered))
    print(f"page: {html}")


def _machine_table(gathered: Gathered) -> Table:
    table = new_table("machines", ["", "processor", "cores", "computed on"])
    for machine in gathered.machines:
        table.add_row(machine.name, *(str(machine.facts.get(fact, "")) for fact in ("cpu", "cores", "device")))
    return table


def _ratio_table(gathered: Gathered) -> Table:
    """Return the first ratio of each comparison."""
    table = new_table("results", ["benchmark", "run", "model", "guarantees", "first ratios"])
    for name, runs in gathered.benchmarks.items():
        for run in runs:
            result, headlines = run.result, [table.headline for table in side_by_side([run])]
            model = str(result.settings.get("model", ""))
            table.add_row(name, run.label, model, result.guarantees_summary, "\n".join(filter(None, headlines)))
    return table
