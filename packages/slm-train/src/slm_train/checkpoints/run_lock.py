"""One run per folder: the first process of a run locks the folder before anything in it is read or changed."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from slm_train.arguments import Arguments
from slm_train.checkpoints.files.disk_errors import explain_disk_errors
from slm_train.checkpoints.output_folder import check_folder
from slm_train.errors import TrainError
from slm_train.run_folder.lock_file import LOCK_FILE, active_process, release, try_lock

_ATTEMPTS, _PAUSE = 5, 0.1  # seconds; ``active_process`` holds a free lock for an instant
_NOT_A_FOLDER = (errno.ENOTDIR, errno.EEXIST)


@contextmanager
def only_run_in_folder(arguments: Arguments, print_line: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the run folder during the block, unless the run writes nothing.

    Raises:
        TrainError: If another run holds the lock, or the folder cannot be one.
        CheckpointError: If the folder cannot be written.
    """
    folder = Path(str(arguments.training.output_dir))
    check_folder("--output_dir", folder)
    with ExitStack() as stack:
        if not arguments.writes_nothing:
            with explain_disk_errors(folder):
                stack.enter_context(lock_run(folder, print_line))
        yield


@contextmanager
def lock_run(folder: Path, print_line: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run folder during the block; the folder is created if there is none.

    Every process of a run must call this. A folder that contains nothing at the end, because the run was refused, is
    removed again. Where the file system has no locks, a line is printed and the run goes on without one.

    Raises:
        TrainError: On every process, if another run holds the lock, or the folder cannot be one.
        OSError: If the folder cannot be written.
    """
    state = PartialState()
    # Every process has chosen the name of the folder, by the runs that exist, before one of them creates it.
    state.wait_for_everyone()
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    handle, refusal = _lock_or_refuse(folder, print_line) if state.is_main_process else (None, None)
    if state.num_processes > 1:
        [refusal] = broadcast_object_list([refusal])
    if refusal:
        raise TrainError(refusal)
    try:
        yield
    finally:
        if handle is not None:
            release(handle, folder / LOCK_FILE)
        if state.is_main_process:
            _remove_empty(missing)


def _lock_or_refuse(folder: Path, print_line: Callable[[str], None]) -> tuple[int | None, str | None]:
    """Return the descriptor of the lock, None without one; and why there cannot be a run in ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _NOT_A_FOLDER:
            raise
        return None, f"--output_dir {folder} is a file or below one; give a folder"
    try:
        handle = _lock_patiently(folder / LOCK_FILE)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            raise
        print_line(f"{folder}: its file system has no locks; make sure that no other run uses this folder")
        return None, None
    if handle is not None:
        return handle, None
    process = active_process(folder) or "unknown"
    remedy = "wait until it has ended, or give another --output_dir"
    return None, f"{folder} is in use by another run, process {process}; {remedy}"


def _lock_patiently(path: Path) -> int | None:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE)
        if (handle := try_lock(path)) is not None:
            return handle
    return None


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # one that is not empty
        for folder in folders:
            folder.rmdir()
