"""``Record``: what a file reader yields, before its text or conversation is taken from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One document of a file without columns, or one row of a file with columns.

    Attributes:
        value: The text, or the values by column.
        where: File and line, for error messages.
    """

    value: str | Mapping[str, Any]
    where: str
