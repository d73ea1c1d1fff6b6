"""Where figures go: a terminal of at least 130 columns, and files in folders that may not be there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console


def console() -> Console:
    """As wide as the terminal; wide enough for a table where there is none."""
    return Console(width=None if Console().is_terminal else 130)


def heading(setting: dict[str, Any]) -> str:
    """What was measured, and on what."""
    adapter = f", adapter {setting['adapter']}" if setting["adapter"] else ""
    kind = f"{setting['dtype']} packed" if setting.get("packed") else setting["dtype"]
    return f"{setting['model']}{adapter}: {kind} on {setting['device']}, threads: {setting['threads']}"


def write(path: Path, text: str) -> None:
    """``text`` and a line's end into ``path``, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
