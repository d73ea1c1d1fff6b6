"""What ``describe`` found, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMES = {
    "lora_alpha": "alpha",
    "use_rslora": "rsLoRA",
    "use_dora": "DoRA",
    "trained_from": "trained from",
    "bytes": "weight files",
    "dtypes": "dtype",
}
COLUMNS = {"largest_angle": "largest angle"}


def as_text(found: dict[str, Any]) -> str:
    """A line for each fact, then a table of the layers where there is one."""
    rows = found.get("layers")
    said = {name: value for name, value in found.items() if value is not None and value is not False}
    facts = {name: "yes" if value is True else value for name, value in said.items()}
    if isinstance(rows, list):
        facts["rotations"] = len(facts.pop("layers"))
    width = max(len(NAMES.get(name, name)) for name in facts)
    lines = [f"{NAMES.get(name, name):<{width}}  {_value(name, value)}" for name, value in facts.items()]
    return "\n".join([*lines, *(["", *_table(rows)] if isinstance(rows, list) and rows else [])])


def _value(name: str, value: Any) -> str:
    if name == "bytes":
        return f"{value / 1e6:,.2f} MB"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Columns as wide as they need to be; numbers to the right."""
    cells = [[_cell(name, value) for name, value in row.items()] for row in rows]
    head = [COLUMNS.get(name, name) for name in rows[0]]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    left = [isinstance(value, str) for value in rows[0].values()]
    return [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in [head, *cells]
    ]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "?"
    if name == "largest_angle":
        return f"{value:.2f}°"
    return f"{value:,}" if isinstance(value, int) else str(value)
