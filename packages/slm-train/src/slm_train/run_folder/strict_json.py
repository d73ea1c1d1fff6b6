"""JSON that every reader accepts: NaN and infinities, which the standard does not have, are the words for them.

``float("NaN")`` and ``float("Infinity")`` in Python, and ``Number(...)`` in JavaScript, read those words.
"""

from __future__ import annotations

import json
import math
from typing import Any


def write_json(value: Any, indent: int | None = None) -> str:
    """Return ``value`` as JSON; what JSON has no type for becomes text."""
    return json.dumps(_strict(value), indent=indent, default=str, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _strict(inner) for name, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list | tuple) else value
