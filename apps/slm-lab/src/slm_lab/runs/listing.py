"""``slm-lab runs``: a table of run folders, in the terminal or as CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from slm_lab.console import new_console
from slm_lab.errors import DamagedRecordError, LabError
from slm_lab.runs.columns import COLUMN_BY_KEY, COLUMNS, Column, columns_of, sort_runs
from slm_lab.runs.csv_file import save_csv, write_csv
from slm_lab.runs.discovery import find_runs
from slm_lab.runs.reading import read_run
from slm_lab.runs.record import RECORD_FILE, Run

WIDTH_WITHOUT_TERMINAL = 100  # columns


def list_runs(arguments: argparse.Namespace) -> int:
    """Print the runs under a folder, or write them as CSV. Returns the exit code.

    Raises:
        LabError: For an unknown column, a folder that does not exist, or a file that cannot be written.
    """
    if not arguments.folder.is_dir():
        raise LabError(f"the folder {arguments.folder} does not exist; choose one that contains run folders")
    runs, damaged = read_all_runs(arguments.folder)
    runs = sort_runs(runs, arguments.sort, descending=arguments.descending)
    if arguments.csv == "-":
        write_csv(runs, sys.stdout)
    else:
        _print_table(runs, arguments.folder)
    for name, error in damaged:
        print(f"slm-lab: skipped {name}/{RECORD_FILE}: {error}", file=sys.stderr)
    if arguments.csv and arguments.csv != "-":
        save_csv(runs, Path(arguments.csv))
        print(f"{len(runs)} runs: {arguments.csv}")
    return 0


def read_all_runs(root: Path) -> tuple[list[Run], list[tuple[str, DamagedRecordError]]]:
    """Read the runs under ``root``, named by their path there.

    Returns:
        The runs, and the names of the damaged ones with the error.
    """
    runs, damaged = [], []
    for folder in find_runs(root):
        name = folder.relative_to(root).as_posix()
        try:
            runs.append(read_run(folder, name))
        except DamagedRecordError as error:
            damaged.append((name, error))
    return runs, damaged


def _print_table(runs: Sequence[Run], root: Path) -> None:
    console = new_console(WIDTH_WITHOUT_TERMINAL)
    if not runs:
        console.print(f"no runs under {escape(str(root))}", soft_wrap=True)
        return
    console.print(_table(COLUMNS, runs))
    scores = columns_of(runs)[len(COLUMNS) :]
    if scores:  # below, as they rarely fit beside the others
        console.print()
        console.print(_table([COLUMN_BY_KEY["folder"], *scores], [run for run in runs if run.evaluations.scores]))
    unfinished = [f"{run.name} ({run.status})" for run in runs if not run.finished]
    if unfinished:
        console.print(f"not finished: {escape(', '.join(unfinished))}", style="dim", soft_wrap=True)


def _table(columns: Sequence[Column], runs: Sequence[Run]) -> Table:
    table = Table(padding=(0, 1, 0, 0), box=None, header_style="bold")
    shown = [column for column in columns if column.title]
    for column in shown:
        is_text = column.key in ("folder", "mode", "base")
        table.add_column(column.title, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for run in runs:
        table.add_row(*(_cell(column, run) for column in shown), style="" if run.finished else "dim")
    return table


def _cell(column: Column, run: Run) -> str:
    value = column.value(run)
    if value is None:
        return ""
    return escape(value) if isinstance(value, str) else column.format(value)
