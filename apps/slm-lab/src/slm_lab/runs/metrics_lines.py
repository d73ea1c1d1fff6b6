"""The lines of metrics.jsonl, as far as they are valid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read_metrics_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects in a file of lines; none if it was not copied."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # a crash can cut the last line short
            continue
        if isinstance(values, dict):
            yield values
