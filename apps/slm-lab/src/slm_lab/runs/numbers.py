"""Numbers in JSON, which may be anything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def read_number(values: Mapping[str, Any], name: str) -> float | None:
    """Return the number ``name`` in ``values``; None for anything that is not a finite number."""
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
