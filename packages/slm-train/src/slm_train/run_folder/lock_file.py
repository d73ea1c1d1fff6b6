"""``.lock`` in a run folder, locked by the process that trains there; the system frees it when that process ends."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

LOCK_FILE = ".lock"
_LOCKED_BYTE = 2**30  # on Windows, which lets nobody else read a locked byte: far behind the text
_open_locks: set[int] = set()  # descriptors that forked processes have to close

if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, *, shared: bool) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int, *, shared: bool) -> None:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _close_in_child() -> None:
        """Close the locks of the parent: otherwise its data loading workers would hold them after its end."""
        for handle in _open_locks:
            os.close(handle)
        _open_locks.clear()

    os.register_at_fork(after_in_child=_close_in_child)


def try_lock(path: Path) -> int | None:
    """Return a descriptor of the locked file, which is created if there is none; None if another process holds it.

    Raises OSError if the file cannot be created, or cannot be locked because its file system has no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # Python's descriptors are not inherited by other programs
    try:
        _lock(handle, shared=False)
        is_in_place = _is_in_place(handle, path)
    except (BlockingIOError, PermissionError):
        is_in_place = False
    except OSError:
        os.close(handle)
        raise
    if not is_in_place:
        os.close(handle)
        return None
    _open_locks.add(handle)
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()} {socket.gethostname()}\n".encode())
    return handle


def release(handle: int, path: Path) -> None:
    """Remove the file and free the lock."""
    if sys.platform != "win32":  # which removes no open file; there it stays, without a lock
        path.unlink(missing_ok=True)
    _open_locks.discard(handle)
    os.close(handle)


def active_process(folder: Path) -> str | None:
    """Return the number of the process that trains in a run folder, and its machine if that is another one.

    None if there is no such process: the run has ended, however it did. None also where a file system has no locks.
    """
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        _lock(handle, shared=True)
        return None
    except (BlockingIOError, PermissionError):
        return _describe(handle)
    except OSError:
        return None
    finally:
        os.close(handle)


def _is_in_place(handle: int, path: Path) -> bool:
    """Return whether the file at ``path`` is the locked one: its last holder may have removed that in the meantime."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _describe(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    process, _, machine = os.read(handle, 1000).decode(errors="replace").strip().partition(" ")
    where = f" on {machine}" if machine and machine != socket.gethostname() else ""
    return f"{process or 'unknown'}{where}"
