"""The built-in text on which quantised weights are measured: about 2,000 tokens of plain English, written for this."""

from __future__ import annotations

from importlib.resources import files


def built_in_text() -> str:
    """Read the text."""
    return files(__package__).joinpath("gate_text.txt").read_text(encoding="utf-8")
