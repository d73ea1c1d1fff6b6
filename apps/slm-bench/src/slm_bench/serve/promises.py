"""What is claimed without a tolerance: it holds, or the exit code is 1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """A sentence, whether it held, and what was seen."""

    says: str
    held: bool
    seen: str
