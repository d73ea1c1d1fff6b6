"""What a look at one thing comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["works", "limited", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """``found``: what is there; ``advice``: what to do about what does not work. Only what nothing works without is
    broken."""

    name: str
    state: State
    found: str
    advice: str = ""


Look = Callable[[], Check]


def carefully(name: str, look: Look) -> Check:
    """What ``look`` finds; a look that fails has found trouble, and does not keep the others from being taken."""
    try:
        return look()
    except Exception as trouble:
        said = str(trouble).strip().partition("\n")[0] or type(trouble).__name__
        return Check(name, "limited", f"it cannot be told: {said}")
