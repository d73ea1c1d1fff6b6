"""Bytes, durations and percentages as short text, for tables and for the page."""

from __future__ import annotations


def format_bytes(value: float) -> str:
    """Format bytes with three significant digits and a decimal unit (1 kB is 1,000 bytes)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            number = value / factor
            # 9.995 and 99.95 round up to 10.0 and 100, which have one decimal less.
            decimals = 2 if number < 9.995 else 1 if number < 99.95 else 0
            return f"{number:,.{decimals}f} {unit}"
    return f"{value:.0f} B"


def format_duration(seconds: float) -> str:
    """Format seconds as seconds, minutes (from 10 min) or hours (from 100 min)."""
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def format_percent(value: float) -> str:
    """Format a percentage (0 to 100) with two decimals."""
    return f"{value:.2f} %" if value < 99.995 else "100 %"
