"""Where a run begins: afresh, or from the newest complete checkpoint of the run that the folder holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_data import BudgetPlan
from slm_train.arguments import Arguments
from slm_train.best import BEST
from slm_train.checkpoint import clean, complete_checkpoints, delete, fault, latest_complete
from slm_train.errors import UserError
from slm_train.run_record import METRICS, RUN, cut_metrics, cut_metrics_to, read_run
from slm_train.step_checkpoint import NAME, read_checkpoint

Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """``checkpoint`` to go on from, or None; ``record``, the run.json of the run that is continued; ``state``, in the
    token-budget loop, what its checkpoint holds."""

    folder: Path
    checkpoint: Path | None
    record: dict[str, Any] | None
    state: dict[str, Any] | None = None

    @property
    def step(self) -> int:
        if self.state:
            return int(self.state["step"])
        return step_of(self.checkpoint) if self.checkpoint else 0

    @property
    def later(self) -> list[Path]:
        """Checkpoints beyond the one that the run goes on from: it will write its own."""
        found = complete_checkpoints(self.folder) if self.checkpoint and not self.state else []
        return [checkpoint for checkpoint in found if step_of(checkpoint) > self.step]

    def check_same(self, identity: dict[str, Any]) -> None:
        """Refuse to continue another run: the same data, base, mode and adapter are needed.

        Raises UserError that names the first difference."""
        known = self.state or self.record
        if not known:
            return
        for name, now in identity.items():
            then = known["identity"].get(name)
            if then != now:
                raise UserError(
                    f"{self.folder} was trained with {name} {then}, now it is {now}: that is another run; give "
                    "the flags it was started with, or another --output_dir"
                )

    def check_plan(self, plan: BudgetPlan) -> None:
        """Refuse a plan that would not go on where the checkpoint stands: other processes may join short steps."""
        if self.state and self.step <= len(plan) and plan.tokens_before[self.step] != self.state["tokens"]:
            raise UserError(
                f"{self.folder} was trained by {len(self.state['ranks'])} processes, and so many as now have other "
                "steps; give as many processes as then, or another --output_dir"
            )

    def prepare(self) -> None:
        """Make the folder ready, once everything else was found to be in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clean(self.folder)
        if self.state:
            cut_metrics_to(self.folder, self.state["log_bytes"])
        elif self.checkpoint:
            for later in reversed(self.later):  # before the log: one that stayed would go on without its lines
                delete(later)
            cut_metrics(self.folder, self.step)
        else:
            _remove_run(self.folder)


def choose_start(arguments: Arguments, say: Say) -> Start:
    """Decide by the flags and what the output folder holds; nothing is written yet.

    Raises UserError for a folder that holds another run, and for a named checkpoint that is broken.
    """
    folder, wanted = Path(str(arguments.training.output_dir)), arguments.training.resume_from_checkpoint
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file; give a folder")
    record = read_run(folder)
    if wanted and record and not arguments.run.overwrite_output_dir:
        _refuse_other_flow(folder, record, dynamic=arguments.budget is not None)
    if arguments.budget and wanted and str(wanted).lower() != "false":
        return _last_step(folder, str(wanted), record, say)
    if wanted and str(wanted).lower() != "false":
        checkpoint = _checkpoint(folder, str(wanted), say)
        start = Start(folder, checkpoint, record if checkpoint else None)
        for later in start.later:
            say(f"{later.name} is beyond it and will be replaced")
        return start
    if record and not arguments.run.overwrite_output_dir and not arguments.run.dry_run:
        raise UserError(
            f"{folder} holds a run already ({record.get('mode')}, {record.get('status')}): --resume_from_checkpoint "
            "continues it, --overwrite_output_dir replaces it, another --output_dir leaves it alone"
        )
    return Start(folder, None, None)


def _refuse_other_flow(folder: Path, record: dict[str, Any], *, dynamic: bool) -> None:
    was_dynamic = record.get("flow") == "dynamic"
    if was_dynamic != dynamic:
        flow, command = ("token-budget loop", "slm-train dynamic") if was_dynamic else ("Trainer", "slm-train")
        raise UserError(f"{folder} holds a run of the {flow}: continue it with {command}, or give another --output_dir")


def _last_step(folder: Path, wanted: str, record: dict[str, Any] | None, say: Say) -> Start:
    """The token-budget loop has one checkpoint, of the last step."""
    where = folder if wanted.lower() == "true" else Path(wanted).expanduser()
    if where.name == NAME:
        where = where.parent
    if where.resolve() != folder.resolve():
        raise UserError(
            f"--resume_from_checkpoint {wanted} is not in --output_dir {folder}; a run goes on in its folder"
        )
    state = read_checkpoint(folder)
    if state is None:
        say(f"nothing to resume in {folder}: starting afresh")
        return Start(folder, None, None)
    say(f"resuming from {folder / NAME}, after step {state['step']:,}")
    return Start(folder, folder / NAME, record, state)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which ``checkpoint-N`` was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _checkpoint(folder: Path, wanted: str, say: Say) -> Path | None:
    if wanted.lower() != "true":
        named = Path(wanted).expanduser()
        reason = fault(named)
        if not reason and not re.fullmatch(r"checkpoint-\d+", named.name):
            reason = "its name says no step; call it checkpoint-N, as it was"
        if reason:
            raise UserError(
                f"checkpoint {named} cannot be resumed from: {reason}; give another, or none for the newest"
            )
        return named
    newest = latest_complete(folder, say) if folder.is_dir() else None
    say(f"resuming from {newest}" if newest else f"nothing to resume in {folder}: starting afresh")
    return newest


def _remove_run(folder: Path) -> None:
    """Remove what an earlier run left, and nothing else that may lie in the folder."""
    for name in (RUN, METRICS):
        (folder / name).unlink(missing_ok=True)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for stale in (NAME, BEST, "model.safetensors", "adapter_model.safetensors", "adapter_config.json", "config.json"):
        (folder / stale).unlink(missing_ok=True)
