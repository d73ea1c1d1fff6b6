"""What a comparison leaves beside its runs: ``compare.html`` and ``compare.json``, each whole at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slm_lab.advice import advise
from slm_lab.comparison import Comparison
from slm_lab.errors import LabError
from slm_lab.figures import Mode
from slm_lab.page import page

PAGE, FIGURES = "compare.html", "compare.json"
FORMAT = 1


def write(comparison: Comparison, folder: Path) -> Path:
    """Write both into ``folder``; returns the page. Raises LabError where the disk does not let it."""
    figures = json.dumps(as_dict(comparison), indent=1, allow_nan=False)
    with disk_explained(folder):
        _replace(folder / FIGURES, figures + "\n")
        _replace(folder / PAGE, page(comparison))
    return folder / PAGE


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Turn what the disk did to ``folder`` into a LabError."""
    try:
        yield
    except OSError as refused:
        raise LabError(f"cannot write into {folder}: {refused.strerror}; make room there, or give another") from refused


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The figures, for programs: sizes in bytes, times in seconds."""
    return {
        "format": FORMAT,
        "budget": comparison.budget,
        "axis": comparison.axis,
        "caveats": comparison.caveats,
        "advice": advise(comparison.modes),
        "left_out": dict(comparison.left_out),
        "modes": [_mode(mode) for mode in comparison.modes],
    }


def _mode(mode: Mode) -> dict[str, Any]:
    runs = [
        {
            "name": outcome.run.name,
            "seed": outcome.run.seed,
            "curve": [asdict(moment) for moment in outcome.curve],
            "samples": dict(outcome.run.samples),
        }
        for outcome in mode.outcomes
    ]
    return {"name": mode.name, "figures": {key: asdict(spread) for key, spread in mode.values.items()}, "runs": runs}


def left_out_before(folder: Path) -> Mapping[str, str]:
    """What the last comparison in ``folder`` left out, for another page of it."""
    try:
        told = json.loads((folder / FIGURES).read_text(encoding="utf-8"))["left_out"]
        return {str(name): str(reason) for name, reason in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
