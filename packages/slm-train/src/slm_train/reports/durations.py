"""Durations as text."""

from __future__ import annotations


def clock_time(seconds: float) -> str:
    """Format a duration as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rough_time(seconds: float) -> str:
    """Format an estimated duration in words, with two digits at most: ``8 s``, ``4 min``, ``1 h 20 min``."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    if hours >= 10:
        return f"{hours + round(minutes / 60)} h"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
