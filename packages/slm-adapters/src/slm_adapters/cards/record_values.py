"""Values of run.json, a file that anyone may have edited: None where they are missing or have another type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def entry(record: Record, *names: str) -> Any:
    """Return a nested value, or None."""
    value: Any = record
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text(record: Record, *names: str) -> str | None:
    """Return a nested text that is not empty, or None."""
    value = entry(record, *names)
    return value if isinstance(value, str) and value else None


def flag(record: Record, *names: str) -> bool:
    """Return whether a nested switch is on."""
    return entry(record, *names) is True


def number(record: Record, *names: str) -> float | None:
    """Return a nested number, or None."""
    value = entry(record, *names)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
