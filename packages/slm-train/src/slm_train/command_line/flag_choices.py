"""The part of an error that lists the valid values of a flag."""

from __future__ import annotations

from collections.abc import Sequence

from slm_train.errors import did_you_mean


def choose_from(value: str, choices: Sequence[str]) -> str:
    """Return a suggestion and the list of valid values, as they continue an error."""
    return f"{did_you_mean(value, choices)}choose from {', '.join(choices)}"
