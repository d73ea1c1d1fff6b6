"""Where a run begins: afresh, or from the newest complete checkpoint of the run that the folder holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_train.arguments import Arguments
from slm_train.checkpoint import clean, complete_checkpoints, delete, fault, latest_complete
from slm_train.errors import UserError
from slm_train.run_record import METRICS, RUN, cut_metrics, read_run

Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """``checkpoint`` to go on from, or None; ``record``, the run.json of the run that is continued."""

    folder: Path
    checkpoint: Path | None
    record: dict[str, Any] | None

    @property
    def step(self) -> int:
        return step_of(self.checkpoint) if self.checkpoint else 0

    @property
    def later(self) -> list[Path]:
        """Checkpoints beyond the one that the run goes on from: it will write its own."""
        found = complete_checkpoints(self.folder) if self.checkpoint else []
        return [checkpoint for checkpoint in found if step_of(checkpoint) > self.step]

    def check_same(self, identity: dict[str, Any]) -> None:
        """Refuse to continue another run: the same data, base, mode and adapter are needed.

        Raises UserError that names the first difference."""
        if not self.record:
            return
        for name, now in identity.items():
            then = self.record["identity"].get(name)
            if then != now:
                raise UserError(
                    f"{self.folder} was trained with {name} {then}, now it is {now}: that is another run; give "
                    "the flags it was started with, or another --output_dir"
                )

    def prepare(self) -> None:
        """Make the folder ready, once everything else was found to be in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clean(self.folder)
        if self.checkpoint:
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
    for stale in ("model.safetensors", "adapter_model.safetensors", "adapter_config.json", "config.json"):
        (folder / stale).unlink(missing_ok=True)
