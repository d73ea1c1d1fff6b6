"""The description of a folder as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LABELS = {
    "lora_alpha": "alpha",
    "oft_block_size": "block size",
    "use_rslora": "rsLoRA",
    "use_dora": "DoRA",
    "trained_from": "trained from",
    "bytes": "weight files",
    "dtypes": "dtype",
}
COLUMN_LABELS = {"largest_angle": "largest angle"}


def as_text(description: dict[str, Any]) -> str:
    """Return a line for each value and, for butterfly adapters, a table of the rotations."""
    rows = description.get("layers")
    shown = {name: value for name, value in description.items() if value is not None and value is not False}
    values = {name: "yes" if value is True else value for name, value in shown.items()}
    if isinstance(rows, list):
        values["rotations"] = len(values.pop("layers"))
    width = max(len(LABELS.get(name, name)) for name in values)
    lines = [f"{LABELS.get(name, name):<{width}}  {_value_text(name, value)}" for name, value in values.items()]
    return "\n".join([*lines, *(["", *_table_lines(rows)] if isinstance(rows, list) and rows else [])])


def _value_text(name: str, value: Any) -> str:
    if name == "bytes":
        return f"{value / 1e6:,.2f} MB"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a header and the rows, columns as wide as their content, text left and numbers right."""
    cells = [[_cell_text(name, value) for name, value in row.items()] for row in rows]
    header = [COLUMN_LABELS.get(name, name) for name in rows[0]]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    is_text = [isinstance(value, str) for value in rows[0].values()]
    return [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in [header, *cells]
    ]


def _cell_text(name: str, value: Any) -> str:
    if value is None:
        return "?"
    if name == "largest_angle":
        return f"{value:.2f}°"
    return f"{value:,}" if isinstance(value, int) else str(value)
