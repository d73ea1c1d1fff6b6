"""eval.json: the results of ``slm-lab eval`` in a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVALUATION_FILE = "eval.json"
FORMAT = 1


@dataclass(frozen=True)
class Score:
    """One number of a task.

    Attributes:
        task: The task, or the member of a group of tasks.
        metric: The metric, with the filter of answers after a comma if the task has several.
        value: The number.
        stderr: Its standard error, if it has one.
        higher_is_better: Whether a larger number is better; None if that is unknown.
        n: Examples, if the record of the task is about several tasks.
    """

    task: str
    metric: str
    value: float
    stderr: float | None = None
    higher_is_better: bool | None = None
    n: int | None = None

    @property
    def key(self) -> str:
        """Task and metric, as the name of a column."""
        return f"{self.task} {self.metric}"

    @property
    def text(self) -> str:
        """The number with its standard error."""
        return _format(self.value) if self.stderr is None else f"{_format(self.value)} ± {_format(self.stderr)}"


def _format(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}" if abs(value) < 1e6 else f"{value:.3g}"


@dataclass(frozen=True)
class Evaluations:
    """The scores of a run and of its base, in the order in which they were computed."""

    scores: tuple[Score, ...] = ()
    base: tuple[Score, ...] = ()


def read_evaluations(folder: Path) -> Evaluations:
    """Read the scores in a run folder; none if there are none or the file is damaged."""
    content = read_evaluation_file(folder / EVALUATION_FILE)
    return Evaluations(_scores(content.get("tasks")), _scores(_mapping(content.get("base")).get("tasks")))


def read_evaluation_file(path: Path) -> dict[str, Any]:
    """Read the content of an eval.json; empty if there is none, or if it is not one of this format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and content.get("format") == FORMAT else {}


def _scores(tasks: Any) -> tuple[Score, ...]:
    return tuple(score for record in _mapping(tasks).values() for score in parse_scores(_mapping(record)))


def parse_scores(record: Mapping[str, Any]) -> list[Score]:
    """Parse the scores of one task's record, without those that are damaged."""
    entries = record.get("scores")
    parsed = [_score(_mapping(entry)) for entry in entries] if isinstance(entries, list) else []
    return [score for score in parsed if score]


def _score(entry: Mapping[str, Any]) -> Score | None:
    value, stderr, better, n = (entry.get(key) for key in ("value", "stderr", "higher_is_better", "n"))
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return Score(
        str(entry.get("task", "")),
        str(entry.get("metric", "")),
        float(value),
        float(stderr) if isinstance(stderr, int | float) and math.isfinite(stderr) else None,
        better if isinstance(better, bool) else None,
        n if isinstance(n, int) else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
