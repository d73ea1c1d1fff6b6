"""Disk errors of a run as one sentence with a remedy."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slm_train.errors import CheckpointError

_NEARLY_FULL = 2**20  # bytes: with less free space, a failed write counts as a full disk
_KEEP_FEWER = "free some space, keep fewer checkpoints with --save_total_limit,"
_FREE_SPACE = "free some space"
_MAKE_SPACE = "({free:.1f} MB left): {full_disk_remedy} or give another --output_dir"
_MAKE_WRITABLE = "make the folder writable or give another --output_dir"
_MESSAGES = {
    errno.ENOSPC: f"the disk is full {_MAKE_SPACE}",
    errno.EDQUOT: f"the disk quota is used up {_MAKE_SPACE}",
    errno.EROFS: f"the file system is read-only: {_MAKE_WRITABLE}",
    errno.EACCES: f"permission denied: {_MAKE_WRITABLE}",
    errno.EPERM: f"permission denied: {_MAKE_WRITABLE}",
    errno.ENOENT: "the folder or a part of it is gone: check that its disk is mounted and that no other run uses it",
}


@contextmanager
def explain_checkpoint_errors(run: Path, *, keeps_several: bool = True) -> Iterator[None]:
    """Turn disk errors while writing into the folder ``run`` into a CheckpointError; other errors pass.

    ``keeps_several``: whether the run keeps several checkpoints, so that keeping fewer is a remedy for a full disk.
    """
    try:
        yield
    except Exception as error:
        number = _errno_of(error, run)
        if number not in _MESSAGES:
            raise
        free = shutil.disk_usage(run).free / 1e6 if run.is_dir() else 0
        remedy = _KEEP_FEWER if keeps_several else _FREE_SPACE
        message = _MESSAGES[number].format(free=free, full_disk_remedy=remedy)
        raise CheckpointError(f"cannot write into {run}: {message}") from error


@contextmanager
def explain_disk_errors(run: Path) -> Iterator[None]:
    """Turn OSErrors about the log, the record or the weights of ``run`` into a CheckpointError."""
    try:
        yield
    except OSError:
        with explain_checkpoint_errors(run, keeps_several=False):
            raise


def _errno_of(error: Exception, run: Path) -> int:
    """Return the errno of a disk error in the folder ``run``; 0 for any other error.

    For a full disk or a missing folder, torch and safetensors raise errors that are no OSError and have no errno.
    """
    if isinstance(error, OSError):
        file = Path(os.fsdecode(error.filename or run))
        # rmtree works relative to an open folder and reports bare names. Errors of files elsewhere are not explained
        # here.
        is_in_run = len(file.parts) == 1 or file.absolute().is_relative_to(run.absolute())
        return error.errno or 0 if is_in_run else 0
    if not run.is_dir():
        return errno.ENOENT
    return errno.ENOSPC if shutil.disk_usage(run).free < _NEARLY_FULL else 0
