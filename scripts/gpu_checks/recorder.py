"""What a part is given: the device, sizes, a scratch folder and the time; and where it records its findings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_checks.registry import Part
from gpu_checks.results import Claim, PartResult, Table
from gpu_checks.sizes import FULL, SMALL

if TYPE_CHECKING:
    import torch

TIMING_NEEDS_FULL_SIZES = "small sizes say nothing about speed"


class Unavailable(Exception):
    """A part cannot run here, for the reason that the message gives: it is skipped."""


class Recorder:
    """Records findings of a part, and writes them at once, so that they outlive a process that is killed.

    Attributes:
        small: Whether to use the sizes for a CPU.
        sizes: The sizes.
        folder: An empty folder for files.
    """

    def __init__(self, part: Part, device: str, result: PartResult, file: Path, folder: Path, seconds: float):
        self.folder, self._device = folder, device
        self.small, self.sizes = result.small, SMALL if result.small else FULL
        self._part, self._result, self._file = part, result, file
        self._end = time.monotonic() + seconds

    @cached_property
    def device(self) -> torch.device:
        """The device to check."""
        import torch  # takes seconds, which a part without it need not wait for

        return torch.device(self._device)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def seconds_left(self) -> float:
        """Seconds until the part is ended."""
        return self._end - time.monotonic()

    def claim(self, key: str, holds: bool, observed: str) -> None:
        """Record whether a claim of the part holds, and what was observed."""
        self._record(key, Claim("passed" if holds else "failed", observed))

    def speed_claim(self, key: str, holds: bool, observed: str) -> None:
        """Record whether a claim about speed holds, which only full sizes on a GPU can tell."""
        if self.small or not self.on_gpu:
            self.skip(key, TIMING_NEEDS_FULL_SIZES if self.small else "needs a CUDA device")
        else:
            self.claim(key, holds, observed)

    def skip(self, key: str, reason: str) -> None:
        """Record why a claim was not decided."""
        self._record(key, Claim("skipped", reason))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
        """Record figures. A later table with the same title replaces an earlier one, so rows can be added."""
        new = Table(title, list(columns), [[format_cell(cell) for cell in row] for row in rows], note)
        self._result.tables = [table for table in self._result.tables if table.title != title] + [new]
        self._result.save(self._file)

    def _record(self, key: str, claim: Claim) -> None:
        if key not in self._part.claims:
            raise KeyError(f"the part {self._part.name} has no claim {key!r} in the registry")
        self._result.claims[key] = claim
        self._result.save(self._file)


def format_cell(value: object) -> str:
    """Format a number with three significant digits and separators of thousands, and anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{round(value):,}"
    return f"{value:.3g}"
