"""Range checks for the values of ButterflySettings and ButterflyConfig."""

from __future__ import annotations

import math

from slm_adapters.butterfly.structure import check_stages
from slm_adapters.errors import AdapterError

SIDES = ("input", "output", "both", "auto")


def check_values(
    side: str,
    block_size: int | None = None,
    stages: int | None = None,
    strength: float = 1.0,
    angle_dropout: float = 0.0,
) -> None:
    """Raise AdapterError for the first value that is out of range."""
    if side not in SIDES:
        raise AdapterError(f"butterfly side {side!r} must be one of {', '.join(SIDES)}")
    if block_size is not None and block_size < 2:
        raise AdapterError(f"butterfly block size {block_size} must be at least 2")
    if stages is not None:
        check_stages(stages)
    check_strength(strength)
    if not 0 <= angle_dropout < 1:
        raise AdapterError(f"butterfly angle dropout {angle_dropout} must be at least 0 and below 1")


def check_strength(strength: float) -> None:
    """Raise AdapterError unless ``strength`` is finite."""
    if not math.isfinite(strength):
        raise AdapterError(f"butterfly strength {strength} must be a finite number")
