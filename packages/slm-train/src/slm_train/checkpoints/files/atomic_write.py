"""Atomic writes: a folder or file is complete or absent, even if the process or the machine stops at any moment.

Content is written under a hidden temporary name, synced to the disk, and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slm_train.checkpoints.files.disk_errors import explain_checkpoint_errors
from slm_train.checkpoints.files.fsync import sync
from slm_train.checkpoints.files.manifest import write_manifest

_WRITING, _DELETING, _REPLACED = "writing", "deleting", "replaced"


def temporary_path(target: Path) -> Path:
    """Return the hidden path next to ``target`` under which it is written; the same in every process of a run."""
    return _hidden_path(target, _WRITING)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to ``target`` at the end of the block, replacing an existing ``target``.

    On an exception the folder is removed and ``target`` is unchanged. Only one process calls this; the others may write
    into ``temporary_path(target)`` during the block.

    Raises:
        CheckpointError: If the disk is full, read-only or missing, or access is denied, here or in the block.
    """
    temporary = temporary_path(target)
    try:
        with explain_checkpoint_errors(target.parent):
            if temporary.exists():
                shutil.rmtree(temporary)
            temporary.mkdir()
            yield temporary
            write_manifest(temporary)
            _publish(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # if this fails, remove_leftovers does it later
        raise


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield the path of a file that is synced and renamed to ``target`` at the end of the block.

    On an exception the file is removed and ``target`` is unchanged. Raises CheckpointError as ``atomic_folder`` does.
    """
    temporary = temporary_path(target)
    try:
        with explain_checkpoint_errors(target.parent, keeps_several=False):
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def delete_folder(folder: Path) -> None:
    """Rename a folder to a hidden name, then delete it, so that no half-deleted folder looks like a checkpoint."""
    hidden = _hidden_path(folder, _DELETING)
    if hidden.exists():
        shutil.rmtree(hidden)
    if folder.exists():
        folder.rename(hidden)
        sync(folder.parent)
        shutil.rmtree(hidden)


def remove_leftovers(run: Path) -> None:
    """Remove the leftovers of interrupted writes, after restoring a checkpoint that was being replaced."""
    restore_replaced(run)
    with explain_checkpoint_errors(run):
        for kind in (_WRITING, _DELETING, _REPLACED):
            for leftover in run.glob(f".*.{kind}"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def restore_replaced(run: Path) -> None:
    """Rename back the checkpoints that an interrupted replacement had moved aside."""
    for replaced in run.glob(f".*.{_REPLACED}"):
        target = replaced.with_name(replaced.stem.removeprefix("."))
        # FileNotFoundError: another process of the run was faster.
        with explain_checkpoint_errors(run), suppress(FileNotFoundError):
            if not target.exists():
                replaced.rename(target)


def _publish(temporary: Path, target: Path) -> None:
    # A folder cannot be renamed onto one that is not empty, so between two renames there is no folder of that name. The
    # new folder is complete on the disk before the old one is moved aside, and the old one is deleted only after the
    # new name is on the disk. A crash between the renames leaves both complete, and restore_replaced renames the old
    # one back.
    replaced = _hidden_path(target, _REPLACED)
    if target.exists():
        delete_folder(replaced)
        target.rename(replaced)
    try:
        temporary.rename(target)
    finally:
        restore_replaced(target.parent)
    sync(target.parent)
    delete_folder(replaced)


def _hidden_path(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.{kind}")
