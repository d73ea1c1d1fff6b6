"""Results in the terminal: scores as rows, models as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slm_lab.evaluation.result_file import TaskRecord
from slm_lab.runs.evaluations import Score


def print_scores(records: Mapping[str, Sequence[TaskRecord]], console: Console) -> None:
    """Print the records of each model, by its name."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("n", justify="right")
    table.add_column("metric", no_wrap=True)
    for name in records:
        table.add_column(escape(name), justify="right")
    by_model = {
        name: {score.key: score for record in each for score in record.scores} for name, each in records.items()
    }
    previous = ""
    for key, (score, examples) in _rows(records).items():
        cells = [_cell(scores.get(key)) for scores in by_model.values()]
        table.add_row(*_heading(score, examples, repeated=score.task == previous), *cells)
        previous = score.task
    console.print(table)
    console.print("± standard error; ↑ higher is better, ↓ lower is better", style="dim")


def _rows(records: Mapping[str, Sequence[TaskRecord]]) -> dict[str, tuple[Score, int]]:
    rows: dict[str, tuple[Score, int]] = {}
    for each in records.values():
        for record in each:
            for score in record.scores:
                rows.setdefault(score.key, (score, score.n or record.examples))
    return rows


def _heading(score: Score, examples: int, *, repeated: bool) -> tuple[str, str, str]:
    arrow = {True: " ↑", False: " ↓", None: ""}[score.higher_is_better]
    task = "" if repeated else escape(score.task)
    return task, "" if repeated else f"{examples:,}", escape(score.metric) + arrow


def _cell(score: Score | None) -> str:
    return "" if score is None else score.text
