"""Choosing where a run starts: at the beginning or at a checkpoint. Also prepares the run folder accordingly."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_adapters import remove_model_card
from slm_data import BudgetPlan
from slm_train.arguments import Arguments
from slm_train.checkpoints.best_weights import read_best_state, read_callback_state, stored_weights
from slm_train.checkpoints.files.atomic_write import delete_folder, remove_leftovers
from slm_train.checkpoints.files.manifest import find_fault
from slm_train.checkpoints.retention import latest_complete, list_checkpoints
from slm_train.checkpoints.run_identity import IDENTITY_NAME
from slm_train.checkpoints.step_checkpoint_file import STEP_CHECKPOINT_FILE, read_step_checkpoint
from slm_train.errors import TrainError
from slm_train.run_folder.metrics_file import METRICS_FILE, cut_metrics_after, cut_metrics_to
from slm_train.run_folder.run_record import RUN_FILE, read_run
from slm_train.run_folder.tensorboard_folder import TENSORBOARD_FOLDER

PrintLine = Callable[[str], None]
_EARLIER_BEST_WEIGHTS = "dynamic_best.pt"  # its name until slm-train 0.6
# The last two make a chat of a model, which another run in the folder may not be.
_MODEL_FILES = (
    "model.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        folder: The run folder.
        checkpoint: The checkpoint to continue from, or None.
        record: The run.json of the run that is continued.
        state: The content of the checkpoint, in the token-budget loop.
    """

    folder: Path
    checkpoint: Path | None
    record: dict[str, Any] | None
    state: dict[str, Any] | None = None

    @property
    def step(self) -> int:
        """The number of optimizer steps already taken."""
        if self.state:
            return int(self.state["step"])
        return step_of(self.checkpoint) if self.checkpoint else 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The state of the best evaluation in the checkpoint to continue from; None without one."""
        if self.state:
            return dict(self.state["best"])
        return read_best_state(self.checkpoint) if self.checkpoint else None

    @property
    def later_checkpoints(self) -> list[Path]:
        """Checkpoints after the one to continue from; the run will write its own."""
        checkpoints = list_checkpoints(self.folder) if self.checkpoint and not self.state else []
        return [checkpoint for checkpoint in checkpoints if step_of(checkpoint) > self.step]

    @property
    def identity(self) -> dict[str, Any] | None:
        """The identity of the run that is continued: that in the checkpoint, else that in run.json."""
        if self.state:
            return dict(self.state["identity"])
        in_checkpoint = read_callback_state(self.checkpoint, IDENTITY_NAME) if self.checkpoint else None
        return in_checkpoint or (self.record or {}).get("identity")

    @property
    def lacks_optimizer(self) -> bool:
        """Whether the checkpoint to continue from has no optimizer state (``--save_only_model``)."""
        if self.state or self.checkpoint is None:
            return False
        # optimizer.pt; folders with FSDP (optimizer_0) and DeepSpeed (global_step4)
        return not any(path.name.startswith(("optimizer", "global_step")) for path in self.checkpoint.iterdir())

    def check_plan(self, plan: BudgetPlan) -> None:
        """Raise TrainError if the steps before the checkpoint differ from those in ``plan``.

        That happens if the number of processes changes: a step with fewer rows than processes is merged with the next.
        """
        if self.state and self.step <= len(plan) and plan.tokens_before[self.step] != self.state["tokens"]:
            raise TrainError(
                f"{self.folder} was trained by {len(self.state['ranks'])} processes, and the number of processes now "
                "gives other steps; start as many processes as before, or give another --output_dir"
            )

    def prepare_folder(self) -> None:
        """Create the run folder, or remove from it what this run replaces. Call it after all checks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        if self.state:
            cut_metrics_to(self.folder, self.state["log_bytes"])
        elif self.checkpoint:
            # Before the log is cut: a later checkpoint left by a crash in between would be resumed without its lines.
            for later in reversed(self.later_checkpoints):
                delete_folder(later)
            cut_metrics_after(self.folder, self.step)
        else:
            # Only here does --overwrite_output_dir take effect.
            _remove_run(self.folder)


def choose_start(arguments: Arguments, print_line: PrintLine) -> Start:
    """Choose the start from the flags and the content of the output folder. Writes nothing.

    Raises:
        TrainError: If the folder contains another run, or the requested checkpoint is damaged.
        CheckpointError: For a damaged checkpoint of the token-budget loop.
    """
    folder, resume = Path(str(arguments.training.output_dir)), arguments.training.resume_from_checkpoint
    record = read_run(folder)
    if arguments.run.accept_changes and not resume:
        raise TrainError("--accept_changes is for a run that is continued; give --resume_from_checkpoint with it")
    if resume and record and not arguments.run.overwrite_output_dir:
        _refuse_other_flow(folder, record, dynamic=arguments.budget is not None)
    if resume and str(resume).lower() != "false":
        if arguments.budget:
            return _start_after_last_step(folder, str(resume), record, print_line)
        restores = not arguments.writes_nothing
        return _start_from_checkpoint(folder, str(resume), record, print_line, restores=restores)
    if record and not arguments.run.overwrite_output_dir and not arguments.writes_nothing:
        raise TrainError(
            f"{folder} already holds a run ({record.get('mode')}, {record.get('status')}): --resume_from_checkpoint "
            "continues it, --overwrite_output_dir replaces it, another --output_dir leaves it alone"
        )
    return Start(folder, None, None)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which ``checkpoint-N`` was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _refuse_other_flow(folder: Path, record: dict[str, Any], *, dynamic: bool) -> None:
    was_dynamic = record.get("flow") == "dynamic"
    if was_dynamic != dynamic:
        flow, command = ("token-budget loop", "slm-train dynamic") if was_dynamic else ("Trainer", "slm-train")
        raise TrainError(
            f"{folder} holds a run of the {flow}: continue it with {command}, or give another --output_dir"
        )


def _start_after_last_step(folder: Path, resume: str, record: dict[str, Any] | None, print_line: PrintLine) -> Start:
    """Start from ``dynamic_checkpoint.pt``, the only checkpoint of a run of the token-budget loop."""
    requested = folder if resume.lower() == "true" else Path(resume).expanduser()
    if requested.name == STEP_CHECKPOINT_FILE:
        requested = requested.parent
    if requested.resolve() != folder.resolve():
        raise TrainError(
            f"--resume_from_checkpoint {resume} is not in --output_dir {folder}; a run continues in its own folder"
        )
    state = read_step_checkpoint(folder)
    if state is None:
        print_line(f"nothing to resume in {folder}: starting from the beginning")
        return Start(folder, None, None)
    print_line(f"resuming from {folder / STEP_CHECKPOINT_FILE}, after step {state['step']:,}")
    return Start(folder, folder / STEP_CHECKPOINT_FILE, record, state)


def _start_from_checkpoint(
    folder: Path, resume: str, record: dict[str, Any] | None, print_line: PrintLine, *, restores: bool
) -> Start:
    is_newest = resume.lower() == "true"
    checkpoint = _newest_checkpoint(folder, print_line, restores) if is_newest else _requested_checkpoint(resume)
    start = Start(folder, checkpoint, record if checkpoint else None)
    for later in start.later_checkpoints:
        print_line(f"{later.name} is after it and will be replaced")
    return start


def _requested_checkpoint(path: str) -> Path:
    checkpoint = Path(path).expanduser()
    reason = find_fault(checkpoint)
    if not reason and not re.fullmatch(r"checkpoint-\d+", checkpoint.name):
        reason = "its name does not contain the step; rename it to checkpoint-N, as it was written"
    if reason:
        raise TrainError(f"cannot resume from checkpoint {checkpoint}: {reason}; give another, or none for the newest")
    return checkpoint


def _newest_checkpoint(folder: Path, print_line: PrintLine, restores: bool) -> Path | None:
    newest = latest_complete(folder, print_line, restores=restores) if folder.is_dir() else None
    print_line(f"resuming from {newest}" if newest else f"nothing to resume in {folder}: starting from the beginning")
    return newest


def _remove_run(folder: Path) -> None:
    """Remove the files of an earlier run; all other files in the folder stay."""
    for name in (RUN_FILE, METRICS_FILE):
        (folder / name).unlink(missing_ok=True)
    remove_model_card(folder)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for name in (STEP_CHECKPOINT_FILE, _EARLIER_BEST_WEIGHTS, *_MODEL_FILES):
        (folder / name).unlink(missing_ok=True)
    for path in stored_weights(folder).values():
        path.unlink()
    shutil.rmtree(folder / TENSORBOARD_FOLDER, ignore_errors=True)
