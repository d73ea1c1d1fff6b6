"""The outcome of a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

CheckState = Literal["works", "limited", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Args:
        detail: The observed facts.
        advice: The remedy, for a check that does not work.
        state: ``broken`` is reserved for what everything else depends on; other failures are ``limited`` or
        ``missing``.
    """

    name: str
    state: CheckState
    detail: str
    advice: str = ""


def run_check(name: str, check: Callable[[], Check]) -> Check:
    """Run ``check``. An exception makes it ``limited``, so that the other checks still run."""
    try:
        return check()
    except Exception as error:
        message = str(error).strip().partition("\n")[0] or type(error).__name__
        return Check(name, "limited", f"the check failed: {message}")
