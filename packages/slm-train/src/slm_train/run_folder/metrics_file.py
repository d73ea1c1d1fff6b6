"""``metrics.jsonl``: one line per logged step and evaluation, cut back when a run is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slm_train.run_folder.strict_json import write_json

METRICS_FILE = "metrics.jsonl"


def append_metrics(folder: Path, line: dict[str, Any]) -> None:
    """Add a line; a value that is NaN or infinite is written as a word (``strict_json``)."""
    with (folder / METRICS_FILE).open("a") as file:
        file.write(write_json(line) + "\n")


def metrics_size(folder: Path) -> int:
    """Return the size of the file in bytes."""
    path = folder / METRICS_FILE
    return path.stat().st_size if path.is_file() else 0


def cut_metrics_after(folder: Path, step: int) -> None:
    """Remove the lines after ``step``: a run that is resumed from there writes them again."""
    _keep_lines(folder, lambda line: _step_of(line) <= step)


def cut_metrics_to(folder: Path, size: int) -> None:
    """Keep the first ``size`` bytes: those that existed when a checkpoint was written."""
    if metrics_size(folder) > size:
        os.truncate(folder / METRICS_FILE, size)


def cut_last_evaluation(folder: Path, step: int) -> None:
    """Remove the final evaluation of a run, after ``step``: a resumed run repeats and logs it."""
    _keep_lines(folder, lambda line: _step_of(line) != step or '"eval_loss"' not in line)


def _keep_lines(folder: Path, is_kept: Callable[[str], bool]) -> None:
    path = folder / METRICS_FILE
    if not path.is_file():
        return
    lines = [line for line in path.read_text().splitlines(keepends=True) if is_kept(line)]
    # os.replace is atomic: a crash leaves the old lines or the new ones.
    temporary = path.with_suffix(".writing")
    temporary.write_text("".join(lines))
    os.replace(temporary, path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # incomplete, because the process was killed
        return float("inf")
