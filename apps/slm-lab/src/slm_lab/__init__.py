"""Comparison of the training modes of slm-train, and a check of the machine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_lab.errors import LabError
    from slm_lab.flags import parse_command_line
    from slm_lab.runs.discovery import find_runs
    from slm_lab.runs.reading import read_run
    from slm_lab.runs.record import Run

__version__ = "0.6.0"

__all__ = [
    "LabError",
    "Run",
    "find_runs",
    "parse_command_line",
    "read_run",
]

# Imported on first use.
_EXPORTS = {
    "LabError": "errors:LabError",
    "Run": "runs.record:Run",
    "find_runs": "runs.discovery:find_runs",
    "parse_command_line": "flags:parse_command_line",
    "read_run": "runs.reading:read_run",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
