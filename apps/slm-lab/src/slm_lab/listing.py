"""``slm-lab runs``: the table of run folders, in a terminal or as CSV."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slm_lab.errors import LabError
from slm_lab.figures import duration, size
from slm_lab.runs import RUN, Damaged, Run, find_runs, read_run

Value = str | float | None


@dataclass(frozen=True)
class Column:
    """Of the CSV file; with ``title`` one of the terminal's table too."""

    key: str
    value: Callable[[Run], Value]
    title: str = ""
    text: Callable[[float], str] = str


COLUMNS = (
    Column("folder", lambda run: run.name, "folder"),
    Column("status", lambda run: run.status),
    Column("mode", lambda run: run.mode, "mode"),
    Column("base", lambda run: run.base, "base"),
    Column("dataset", lambda run: run.dataset),
    Column("seed", lambda run: run.seed),
    Column("trainable", lambda run: run.trainable, "trainable", "{:,.0f}".format),
    Column("total", lambda run: run.total),
    Column("bits_per_byte_before", lambda run: run.bits("before")),
    Column("bits_per_byte", lambda run: run.bits("after"), "bits/byte", "{:.4f}".format),
    Column("perplexity_before", lambda run: run.perplexity("before")),
    Column("perplexity", lambda run: run.perplexity("after"), "ppl", "{:,.2f}".format),
    Column("weights", lambda run: run.weights),
    Column("gradients", lambda run: run.gradients),
    Column("optimizer", lambda run: run.optimizer),
    Column("peak", lambda run: run.peak, "peak", size),
    Column("tokens_per_second", lambda run: run.tokens_per_second, "tok/s", "{:,.0f}".format),
    Column("steps", lambda run: run.steps),
    Column("tokens", lambda run: run.tokens),
    Column("seconds", lambda run: run.seconds, "time", duration),
    Column("device", lambda run: run.device),
    Column("path", lambda run: str(run.folder)),
)
BY_KEY = {column.key: column for column in COLUMNS}


def list_runs(given: argparse.Namespace) -> int:
    """Print the runs under a folder, or write them as CSV. Raises LabError."""
    if given.sort and given.sort not in BY_KEY:
        raise LabError(f"--sort {given.sort}: there is no such column; choose from {', '.join(BY_KEY)}")
    if not given.folder.is_dir():
        raise LabError(f"there is no folder {given.folder}; give one with run folders")
    runs, damaged = read_all(given.folder)
    runs = ordered(runs, given.sort, descending=given.descending)
    if given.csv == "-":
        write_csv(runs, sys.stdout)
    else:
        _show(runs, given.folder)
    for name, damage in damaged:
        print(f"slm-lab: {name}/{RUN} is passed over: {damage}", file=sys.stderr)
    if given.csv and given.csv != "-":
        _save(runs, Path(given.csv))
    return 0


def read_all(root: Path) -> tuple[list[Run], list[tuple[str, Damaged]]]:
    """The runs under ``root``, named by their place there; and the damaged ones, with what is wrong."""
    runs, damaged = [], []
    for folder in find_runs(root):
        name = folder.relative_to(root).as_posix()
        try:
            runs.append(read_run(folder, name))
        except Damaged as damage:
            damaged.append((name, damage))
    return runs, damaged


def ordered(runs: Sequence[Run], by: str | None, *, descending: bool) -> list[Run]:
    """By a column, those without a value last."""
    if by is None:
        return [*reversed(runs)] if descending else [*runs]
    value = BY_KEY[by].value
    known: list[tuple[Any, Run]] = [(found, run) for run in runs if (found := value(run)) is not None]
    known.sort(key=lambda one: one[0], reverse=descending)
    return [*(run for _, run in known), *(run for run in runs if value(run) is None)]


def _show(runs: Sequence[Run], root: Path) -> None:
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    if not runs:
        console.print(f"no finished or started runs under {escape(str(root))}", soft_wrap=True)
        return
    shown = [column for column in COLUMNS if column.title]
    table = Table(padding=(0, 1, 0, 0), box=None, header_style="bold")
    for column in shown:
        names = column.key in ("folder", "mode", "base")
        table.add_column(column.title, justify="left" if names else "right", overflow="fold", no_wrap=not names)
    for run in runs:
        cells = [_text(column, run) for column in shown]
        table.add_row(*cells, style="" if run.finished else "dim")
    console.print(table)
    unfinished = [f"{run.name} ({run.status})" for run in runs if not run.finished]
    if unfinished:
        console.print(f"not finished: {escape(', '.join(unfinished))}", style="dim", soft_wrap=True)


def _text(column: Column, run: Run) -> str:
    value = column.value(run)
    return "" if value is None else escape(value) if isinstance(value, str) else column.text(value)


def write_csv(runs: Iterable[Run], out: TextIO) -> None:
    """Every column; sizes in bytes, times in seconds."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(BY_KEY)
    for run in runs:
        rows.writerow([_plain(column.value(run)) for column in COLUMNS])


def _plain(value: Value) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if isinstance(value, int | float):
        return repr(int(value)) if float(value).is_integer() else repr(value)
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def _save(runs: Sequence[Run], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as out:
            write_csv(runs, out)
    except OSError as refused:
        raise LabError(f"--csv {path} cannot be written: {refused.strerror}; give another file") from refused
    print(f"{len(runs)} runs: {path}")
