"""Finding and deleting the numbered checkpoints of a run, ``checkpoint-N``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slm_train.checkpoints.files.atomic_write import delete_folder, restore_replaced
from slm_train.checkpoints.files.disk_errors import explain_checkpoint_errors
from slm_train.checkpoints.files.manifest import MANIFEST, find_fault
from slm_train.checkpoints.step_checkpoint_file import STEP_CHECKPOINT_FILE

_PREFIX = "checkpoint-"


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run by number, oldest first. They may be incomplete: see ``find_fault``."""
    numbers = {path: path.name.removeprefix(_PREFIX) for path in run.glob("*") if path.name.startswith(_PREFIX)}
    folders = [path for path, number in numbers.items() if number.isdecimal() and path.is_dir()]
    return sorted(folders, key=lambda path: int(numbers[path]))


def latest_complete(run: Path, print_line: Callable[[str], None], *, restores: bool = True) -> Path | None:
    """Return the newest complete checkpoint, or None; print each one that is skipped, with the reason.

    Call it before the run writes anything: with ``restores``, it first undoes a replacement that a crash interrupted.
    """
    if restores:
        restore_replaced(run)
    for checkpoint in reversed(list_checkpoints(run)):
        if not (reason := find_fault(checkpoint)):
            return checkpoint
        print_line(f"skipping {checkpoint}: {reason}")
    return None


def last_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint that a run would continue from, of either flow; None if there is none."""
    step_checkpoint = run / STEP_CHECKPOINT_FILE
    written = [path for path in list_checkpoints(run) if (path / MANIFEST).is_file()]
    return step_checkpoint if step_checkpoint.is_file() else written[-1] if written else None


def rotate(run: Path, keep: int | None, protected: Path | None) -> None:
    """Delete the oldest checkpoints beyond ``keep``, but never the newest nor ``protected``; None keeps all.

    Age is the time of writing, not the step: if a run resumed from step 2 because checkpoint-4 was damaged, its
    checkpoint-3 is newer than checkpoint-4. Folders without a manifest were not written by this package; they are
    neither counted nor deleted.
    """
    written = [path for path in list_checkpoints(run) if (path / MANIFEST).is_file()]
    written.sort(key=lambda path: (path / MANIFEST).stat().st_mtime_ns)
    deletable = [path for path in written[:-1] if protected is None or path.name != protected.name]
    with explain_checkpoint_errors(run):
        for checkpoint in deletable[: max(0, len(written) - keep) if keep else 0]:
            delete_folder(checkpoint)
