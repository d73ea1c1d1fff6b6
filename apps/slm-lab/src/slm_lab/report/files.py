"""The files of a comparison, ``compare.html`` and ``compare.json``, each replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slm_lab.disk_errors import explain_disk_errors
from slm_lab.report.html_page import render_page
from slm_lab.report.page_evaluations import evaluation_figures
from slm_lab.results.advice import advise
from slm_lab.results.comparison import Comparison
from slm_lab.results.mode_results import ModeResults
from slm_lab.runs.record import TextSample

PAGE_FILE, FIGURES_FILE = "compare.html", "compare.json"
FORMAT = 2  # of compare.json


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write the page and the figures into ``folder``. Returns the path of the page.

    Raises:
        LabError: If they cannot be written.
    """
    figures = json.dumps(comparison_figures(comparison), indent=1, allow_nan=False)
    with explain_disk_errors(folder):
        _write_atomically(folder / FIGURES_FILE, figures + "\n")
        _write_atomically(folder / PAGE_FILE, render_page(comparison))
    return folder / PAGE_FILE


def _write_atomically(path: Path, text: str) -> None:
    # Renaming within a folder is atomic: readers see the old file or the new one, never a part.
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def comparison_figures(comparison: Comparison) -> dict[str, Any]:
    """Return the content of compare.json: sizes in bytes, times in seconds."""
    return {
        "format": FORMAT,
        "budget": comparison.budget,
        "axis": comparison.axis,
        "caveats": comparison.caveats,
        "advice": advise(comparison.modes),
        "left_out": dict(comparison.left_out),
        "modes": [_mode_figures(mode) for mode in comparison.modes],
    }


def _mode_figures(mode: ModeResults) -> dict[str, Any]:
    # The keys are part of the format and independent of the names in the code.
    figures = {
        key: {"median": spread.median, "least": spread.minimum, "most": spread.maximum}
        for key, spread in mode.spreads.items()
    }
    runs = [
        {
            "name": result.run.name,
            "seed": result.run.seed,
            "curve": [asdict(point) for point in result.curve],
            "samples": {when: _texts(samples) for when, samples in result.run.samples.items()},
            "samples_during_training": [
                {"step": sampled.step, "samples": _texts(sampled.samples)} for sampled in result.sampled
            ],
        }
        for result in mode.results
    ]
    evaluations = evaluation_figures(mode)
    return {"name": mode.name, "label": mode.label, "figures": figures, "runs": runs, "evaluations": evaluations}


def _texts(samples: Sequence[TextSample]) -> list[dict[str, str]]:
    return [{"prompt": sample.prompt, "text": sample.prompt + sample.continuation} for sample in samples]


def read_left_out(folder: Path) -> Mapping[str, str]:
    """Read what the last comparison in ``folder`` left out; empty if there is no valid compare.json."""
    try:
        left_out = json.loads((folder / FIGURES_FILE).read_text(encoding="utf-8"))["left_out"]
        return {str(name): str(reason) for name, reason in left_out.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
