"""Columns of the table of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from slm_lab.errors import LabError
from slm_lab.formatting import format_bytes, format_duration
from slm_lab.runs.record import Run

Value = str | float | None


@dataclass(frozen=True)
class Column:
    """A column of the CSV file. One with a ``title`` is in the terminal's table too, formatted by ``format``."""

    key: str
    value: Callable[[Run], Value]
    title: str = ""
    format: Callable[[float], str] = str


COLUMNS = (
    Column("folder", lambda run: run.name, "folder"),
    Column("status", lambda run: run.status),
    Column("mode", lambda run: run.mode, "mode"),
    Column("base", lambda run: run.base, "base"),
    Column("dataset", lambda run: run.dataset),
    Column("seed", lambda run: run.seed),
    Column("trainable", lambda run: run.trainable_parameters, "trainable", "{:,.0f}".format),
    Column("total", lambda run: run.total_parameters),
    Column("bits_per_byte_before", lambda run: run.bits_per_byte("before")),
    Column("bits_per_byte", lambda run: run.bits_per_byte("after"), "bits/byte", "{:.4f}".format),
    Column("perplexity_before", lambda run: run.perplexity("before")),
    Column("perplexity", lambda run: run.perplexity("after"), "ppl", "{:,.2f}".format),
    Column("weights", lambda run: run.weight_bytes),
    Column("gradients", lambda run: run.gradient_bytes),
    Column("optimizer", lambda run: run.optimizer_bytes),
    Column("peak", lambda run: run.peak_bytes, "peak", format_bytes),
    Column("tokens_per_second", lambda run: run.tokens_per_second, "tok/s", "{:,.0f}".format),
    Column("steps", lambda run: run.steps),
    Column("tokens", lambda run: run.tokens),
    Column("seconds", lambda run: run.train_seconds, "time", format_duration),
    Column("device", lambda run: run.device),
    Column("path", lambda run: str(run.folder)),
)
COLUMN_BY_KEY = {column.key: column for column in COLUMNS}


def columns_of(runs: Sequence[Run]) -> tuple[Column, ...]:
    """All columns: those of every run, and one for each score of ``slm-lab eval`` that a run has.

    The terminal's table shows the first score of each task, which is its main one.
    """
    scores = {score.key: score for run in runs for score in run.evaluations.scores}
    first = {score.task: key for key, score in reversed(scores.items())}
    shown = {key: score.task for key, score in scores.items() if first[score.task] == key}
    return (*COLUMNS, *(Column(key, partial(_score, key), shown.get(key, ""), "{:.4g}".format) for key in scores))


def _score(key: str, run: Run) -> float | None:
    return next((score.value for score in run.evaluations.scores if score.key == key), None)


def sort_runs(runs: Sequence[Run], key: str | None, *, descending: bool) -> list[Run]:
    """Sort by the column ``key`` (None keeps the order). Runs without a value come last in both directions.

    Raises:
        LabError: There is no such column.
    """
    if key is None:
        return [*reversed(runs)] if descending else [*runs]
    columns = {column.key: column for column in columns_of(runs)}
    if key not in columns:
        raise LabError(f"--sort {key}: there is no such column; choose from {', '.join(columns)}")
    value_of = columns[key].value
    with_value: list[tuple[Any, Run]] = [(value, run) for run in runs if (value := value_of(run)) is not None]
    with_value.sort(key=lambda pair: pair[0], reverse=descending)
    return [*(run for _, run in with_value), *(run for run in runs if value_of(run) is None)]
