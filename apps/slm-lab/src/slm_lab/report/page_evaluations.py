"""The scores of ``slm-lab eval`` on the page and in compare.json: a row for each score, a column for each mode."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slm_lab.results.mode_results import ModeResults
from slm_lab.runs.evaluations import Score


@dataclass(frozen=True)
class EvaluationRow:
    """A score of each mode.

    Attributes:
        score: The score of one run: its task and metric.
        base: The base's, if all runs with this score have the same; else empty.
        cells: The score of each mode with its standard error, or the median of its seeds with their range.
    """

    score: Score
    base: str
    cells: tuple[tuple[str, str], ...]


def list_evaluations(modes: Sequence[ModeResults]) -> list[EvaluationRow]:
    """All scores that a run has, in the order of their computation."""
    scores = {score.key: score for mode in modes for score in _scores(mode)}
    return [
        EvaluationRow(score, _base(modes, key), tuple(_cell(mode, key) for mode in modes))
        for key, score in scores.items()
    ]


def evaluation_figures(mode: ModeResults) -> list[dict[str, Any]]:
    """The scores of each run of a mode for compare.json."""
    return [
        {"run": result.run.name, "scores": [asdict(score) for score in result.run.evaluations.scores]}
        for result in mode.results
        if result.run.evaluations.scores
    ]


def _scores(mode: ModeResults) -> Iterator[Score]:
    for result in mode.results:
        yield from result.run.evaluations.scores


def _base(modes: Sequence[ModeResults], key: str) -> str:
    runs = (result.run.evaluations for mode in modes for result in mode.results)
    texts = {score.text for each in runs for score in each.base if score.key == key}
    return texts.pop() if len(texts) == 1 else ""


def _cell(mode: ModeResults, key: str) -> tuple[str, str]:
    """A score and its range over seeds."""
    found = [score for score in _scores(mode) if score.key == key]
    if len(found) < 2:
        return (found[0].text if found else "–"), ""
    values = [score.value for score in found]
    low, median, high = (Score("", "", value).text for value in (min(values), statistics.median(values), max(values)))
    return median, f"{low} to {high}" if low != high else ""
