"""Run records as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from slm_lab.errors import LabError
from slm_lab.runs.columns import Value, columns_of
from slm_lab.runs.record import Run


def write_csv(runs: Sequence[Run], file: TextIO) -> None:
    """Write every column, sizes in bytes and times in seconds."""
    writer, columns = csv.writer(file, lineterminator="\n"), columns_of(runs)
    writer.writerow(format_cell(column.key) for column in columns)
    for run in runs:
        writer.writerow([format_cell(column.value(run)) for column in columns])


def save_csv(runs: Sequence[Run], path: Path) -> None:
    """Write the file at ``path``, and its folder if needed.

    Raises:
        LabError: Where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            write_csv(runs, file)
    except OSError as error:
        raise LabError(f"--csv {path} cannot be written: {error.strerror}; choose another file") from error


def format_cell(value: Value) -> str:
    """Format a value for CSV. Text that a spreadsheet would execute as a formula gets a leading apostrophe."""
    if isinstance(value, int | float):
        return repr(int(value)) if float(value).is_integer() else repr(value)
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
