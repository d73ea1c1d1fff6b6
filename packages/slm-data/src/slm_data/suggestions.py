"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def did_you_mean(value: str, names: Sequence[str]) -> str:
    """Return ``"did you mean NAME? "`` for the name closest to ``value``, or an empty string."""
    close = get_close_matches(value, names, n=1)
    return f"did you mean {close[0]}? " if close else ""
