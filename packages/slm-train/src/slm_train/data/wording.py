"""Numbers with their nouns, for lines that are printed."""

from __future__ import annotations


def count(number: float, noun: str) -> str:
    """Return ``"1 row"`` or ``"1,000 rows"``."""
    return f"{number:,.10g} {noun if number == 1 else noun + 's'}"
