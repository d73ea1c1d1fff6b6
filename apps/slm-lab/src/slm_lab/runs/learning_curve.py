"""The learning curve of a run, from its metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_lab.runs.metrics_lines import read_metrics_lines
from slm_lab.runs.numbers import read_number
from slm_lab.runs.record import METRICS_FILE


@dataclass(frozen=True)
class CurvePoint:
    """An evaluation during training. ``tokens`` and ``seconds`` are counted from the start of training."""

    step: int
    bits_per_byte: float
    tokens: float | None
    seconds: float | None


def read_curve(folder: Path) -> tuple[CurvePoint, ...]:
    """Read the evaluations of a run, one per step; empty if the folder was copied without its log."""
    # Losses and evaluations of a step are logged on separate lines; the token count is in the former only.
    steps: dict[int, dict[str, Any]] = {}
    for line in read_metrics_lines(folder / METRICS_FILE):
        step = read_number(line, "step")
        if step is not None:
            steps.setdefault(int(step), {}).update(line)
    points = []
    for step, values in sorted(steps.items()):
        bits = read_number(values, "eval_bits_per_byte")
        if bits is not None:
            tokens = 0.0 if step == 0 else read_number(values, "tokens")
            points.append(CurvePoint(step, bits, tokens, read_number(values, "seconds")))
    return tuple(points)
