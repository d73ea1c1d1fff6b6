"""Guarantees: claims without a tolerance for noise, checked while measuring; a broken one makes the exit code 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class Guarantee:
    """A claim, whether it holds, and what was observed. Result files use the aliases as JSON keys."""

    statement: Annotated[str, Field(alias="says")]
    holds: Annotated[bool, Field(alias="held", strict=True)]
    observed: Annotated[str, Field(alias="seen")]

    @property
    def verdict(self) -> str:
        return "kept" if self.holds else "BROKEN"


def format_counts(counts: Mapping[str, int]) -> str:
    """Format counts by name, such as what a server still holds, in one line."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def format_statuses(statuses: Mapping[int, int]) -> str:
    """Format how many replies had each HTTP status; 0 stands for a connection that ended without one."""
    return ", ".join(f"{status or 'no answer'}: {count:,}" for status, count in sorted(statuses.items()))
