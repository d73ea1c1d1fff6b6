"""``slm-bench all``: every benchmark in a separate process, then a table and the report. Imports no torch."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from slm_bench.all.arguments import COMMANDS, WITH_FULL
from slm_bench.harness.processes import sigterm_as_exception
from slm_bench.harness.result_file import ForeignFile, read_result
from slm_bench.harness.tables import new_console, new_table
from slm_bench.report.write_report import write_report

PAGE = "report.html"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one benchmark. ``guarantees``: how many were kept; empty if it wrote no result file."""

    name: str
    exit_code: int
    seconds: float
    guarantees: str


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmarks and write the report; return 1 if a benchmark failed, otherwise 0."""
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with sigterm_as_exception():
        outcomes = [_run_benchmark(name, folder, full=arguments.full) for name in arguments.only or COMMANDS]
    new_console().print(_table(outcomes))
    written = [str(file) for outcome in outcomes if (file := folder / f"{outcome.name}.json").exists()]
    if written:
        write_report(written, folder / PAGE)
    return 1 if any(outcome.exit_code for outcome in outcomes) else 0


def _run_benchmark(name: str, folder: Path, *, full: bool) -> Outcome:
    file, start = folder / f"{name}.json", time.perf_counter()
    file.unlink(missing_ok=True)  # that of an earlier run must not be reported as this one's
    words = [*COMMANDS[name], *(["--full"] if full and name in WITH_FULL else [])]
    words += ["--json", str(file), "--plot", str(folder / name)]
    print(f"\n$ slm-bench {' '.join(words)}", flush=True)
    exit_code = _wait([sys.executable, "-m", "slm_bench.cli", *words])
    guarantees = ""
    with suppress(ForeignFile):
        guarantees = read_result(file).guarantees_summary
    return Outcome(name, exit_code, time.perf_counter() - start, guarantees)


def _wait(command: Sequence[str]) -> int:
    """Run ``command`` and return its exit code. If this program is interrupted, it still waits for ``command`` to end.

    The benchmark may have started servers, which only it can stop.
    """
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal sent SIGINT to both processes
        process.wait()
        raise
    except SystemExit:  # SIGTERM was sent to this process alone
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = new_table("slm-bench all", ["benchmark"], ["time", "guarantees", "exit code"])
    for outcome in outcomes:
        minutes, seconds = divmod(round(outcome.seconds), 60)
        table.add_row(outcome.name, f"{minutes}:{seconds:02} min", outcome.guarantees, str(outcome.exit_code))
    return table
