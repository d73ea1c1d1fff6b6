"""Columns of a row: which one holds what, by default or by ``--columns``, and values in nested ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slm_data.errors import DataError
from slm_data.suggestions import did_you_mean

# The columns in which each part of an example is looked for, in this order.
DEFAULT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "system": ("system",),
    "prompt": ("prompt",),
    "completion": ("completion",),
    "instruction": ("instruction",),
    "input": ("input", "context"),
    "output": ("output", "response"),
}
_MISSING = object()


def read_columns(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each part, with those of ``--columns prompt=question,completion=answer`` in their place.

    Raises:
        DataError: A word is not of the form PART=COLUMN, or names an unknown part.
    """
    columns = dict(DEFAULT_COLUMNS)
    for word in (part for text in words for part in text.split(",") if part):
        part, separator, column = word.partition("=")
        if not separator or not column:
            raise DataError(f"--columns {word!r} is not of the form PART=COLUMN, such as prompt=question")
        if part not in DEFAULT_COLUMNS:
            choices = ", ".join(DEFAULT_COLUMNS)
            raise DataError(f"--columns {word!r}: {did_you_mean(part, [*DEFAULT_COLUMNS])}the parts are {choices}")
        columns[part] = (column,)
    return columns


def has_column(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(value_at(row, name) is not _MISSING for name in names)


def find_value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the value of the first of the columns that the row has; None if it has none of them."""
    values = (value_at(row, name) for name in names)
    return next((value for value in values if value is not _MISSING), None)


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, or of a nested one such as ``data.text``; a marker if there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value
