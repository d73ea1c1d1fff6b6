"""The state of a planned run according to its folder: new, interrupted or finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from slm_lab.compare.command_lines import describe_difference
from slm_lab.compare.plan import PlannedRun
from slm_lab.errors import DamagedRecordError, LabError
from slm_lab.runs.reading import read_command, read_run
from slm_lab.runs.record import RECORD_FILE
from slm_train import active_process

RunState = Literal["new", "interrupted", "finished"]


def refuse_active(planned: Sequence[PlannedRun]) -> None:
    """Raise LabError if another process is training one of the runs."""
    for run in planned:
        if process := active_process(run.folder):
            raise LabError(
                f"{run.folder} is being trained by process {process}; wait until it has ended, or choose another "
                "--output_dir"
            )


def read_state(planned: PlannedRun) -> RunState:
    """Read the state of a planned run.

    Raises:
        LabError: If its folder contains another run, or a record that cannot be read.
    """
    record = planned.folder / RECORD_FILE
    if not record.exists():
        return "new"
    try:
        run = read_run(planned.folder)
    except DamagedRecordError as error:
        raise LabError(f"{record}: {error}; repair it, or use --again to train again") from error
    command = read_command(planned.folder)
    if command is None:
        raise LabError(
            f"{planned.folder} contains a run that slm-lab did not start; choose another --output_dir, or use --again "
            "to replace it"
        )
    if difference := describe_difference(command, planned.argv):
        raise LabError(
            f"{planned.folder} was trained with {difference}; use the same flags, another --output_dir, or --again to "
            "train again"
        )
    return "finished" if run.finished else "interrupted"
