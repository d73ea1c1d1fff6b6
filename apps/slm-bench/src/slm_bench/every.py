"""``slm-bench all``: every benchmark in a process of its own, then the report of what they wrote. No torch here."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from slm_bench.ending import sigterm_as_exception
from slm_bench.envelope import Foreign, read
from slm_bench.every_flags import COMMANDS, HAVE_FULL
from slm_bench.output import console
from slm_bench.report import bench as report

PAGE = "report.html"


@dataclass(frozen=True)
class Ran:
    """One benchmark: its exit code, its seconds, and how many of its promises were kept, where it came to that."""

    name: str
    code: int
    seconds: float
    promises: str


def run(given: argparse.Namespace) -> int:
    """Run, and report; 1 where a benchmark failed. Raises KVError where none wrote anything."""
    folder = Path(given.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with sigterm_as_exception():
        found = [_run(name, folder, full=given.full) for name in given.only or COMMANDS]
    console().print(_table(found))
    written = [file for one in found if (file := folder / f"{one.name}.json").exists()]
    if written:
        report.write(written, folder / PAGE)
    return 1 if any(one.code for one in found) else 0


def _run(name: str, folder: Path, *, full: bool) -> Ran:
    file, start = folder / f"{name}.json", time.perf_counter()
    file.unlink(missing_ok=True)  # an earlier run's is not this one's
    words = [*COMMANDS[name], *(["--full"] if full and name in HAVE_FULL else [])]
    words += ["--json", str(file), "--plot", str(folder / name)]
    print(f"\n$ slm-bench {' '.join(words)}", flush=True)
    code = _wait([sys.executable, "-m", "slm_bench.cli", *words])
    return Ran(name, code, time.perf_counter() - start, _promises(file))


def _wait(command: Sequence[str]) -> int:
    """The exit code of ``command``. What ends this program ends it too, in its own time: it may hold servers."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal has sent it to both
        process.wait()
        raise
    except SystemExit:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise


def _promises(file: Path) -> str:
    try:
        promises = read(file).promises
    except Foreign:
        return ""
    kept = sum(promise.held for promise in promises)
    return f"{kept} of {len(promises)} kept" if promises else ""


def _table(found: Sequence[Ran]) -> Table:
    table = Table(title="slm-bench all", title_justify="left")
    table.add_column("benchmark")
    for column in ("time", "promises", "exit code"):
        table.add_column(column, justify="right")
    for one in found:
        minutes, seconds = divmod(round(one.seconds), 60)
        table.add_row(one.name, f"{minutes}:{seconds:02} min", one.promises, str(one.code))
    return table
