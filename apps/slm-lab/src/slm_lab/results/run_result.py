"""A finished run with its learning curve and file sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slm_lab.runs.disk_sizes import checkpoint_bytes, weight_file_bytes
from slm_lab.runs.learning_curve import CurvePoint, read_curve
from slm_lab.runs.reading import read_label
from slm_lab.runs.record import Run
from slm_lab.runs.sampled_texts import SampledStep, read_sampled_steps


@dataclass(frozen=True)
class RunResult:
    """A finished run, its learning curve, texts sampled during training, and the sizes of its files in bytes.

    ``variant`` is the name of the variant that slm-lab trained, such as ``lora r=4``; None if it did not record one.
    """

    run: Run
    curve: tuple[CurvePoint, ...] = ()
    sampled: tuple[SampledStep, ...] = ()
    variant: str | None = None
    weight_files: float | None = None
    checkpoint: float | None = None

    @classmethod
    def read(cls, run: Run, folder: Path) -> RunResult:
        """Read what the run's ``folder`` contains besides its record."""
        sampled = read_sampled_steps(folder)
        sizes = weight_file_bytes(folder), checkpoint_bytes(folder)
        return cls(run, read_curve(folder), sampled, read_label(folder), *sizes)

    @property
    def train_seconds(self) -> float | None:
        """Training time in seconds, including the part before an interruption."""
        run = self.run
        if run.train_seconds is None or not run.steps:
            return run.train_seconds
        # A resumed run records only the steps and seconds since it was resumed. The log has all steps; the earlier ones
        # are assumed to have taken as long as the others.
        all_steps = max(run.steps, self.curve[-1].step if self.curve else 0)
        return run.train_seconds / run.steps * all_steps
