"""Checkpoints that are complete or absent: written aside, synced, sealed by a manifest, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT, HASH = 1, "blake2b"
NEARLY_FULL = 2**20  # bytes

_ROOM = "({left:.1f} MB left): {ways_out} or give another --output_dir"
_LOCKED = "make the folder writable or give another --output_dir"
_TROUBLE = {
    errno.ENOSPC: f"the disk is full {_ROOM}",
    errno.EDQUOT: f"the disk quota is used up {_ROOM}",
    errno.EROFS: f"the file system is read-only: {_LOCKED}",
    errno.EACCES: f"permission denied: {_LOCKED}",
    errno.EPERM: f"permission denied: {_LOCKED}",
    errno.ENOENT: "it or a part of it is gone: see that its disk is mounted and no other run writes there",
}


class CheckpointError(Exception):
    """One sentence for the user: what was wrong with which folder, and what to do."""


def aside_path(target: Path) -> Path:
    """The hidden folder beside ``target`` that it is written into, the same for every process of a run."""
    return _hidden(target, "writing")


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yield an empty folder; what is written there becomes ``target`` on leaving, replacing one that exists.

    On an exception nothing of it remains and ``target`` stays as it was. One process calls this; others
    may write into ``aside_path(target)`` meanwhile. Raises CheckpointError where the disk is full,
    read-only, forbidden or gone, whoever met that: this function or the code inside the block.
    """
    aside = aside_path(target)
    try:
        with _explained(target.parent):
            if aside.exists():
                shutil.rmtree(aside)
            aside.mkdir()
            yield aside
            _seal(aside)
            _publish(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # what resists is left to clean()
        raise


@contextmanager
def writing_file(target: Path) -> Iterator[Path]:
    """Yield the path of a file that becomes ``target`` on leaving, synced, in place of one that exists.

    On an exception nothing of it remains and ``target`` stays as it was. Raises CheckpointError as ``writing`` does.
    """
    aside = _hidden(target, "writing")
    try:
        with _explained(target.parent, ways_out="free some"):
            yield aside
            _sync(aside)
            os.replace(aside, target)
            _sync(target.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def fault(folder: Path) -> str | None:
    """None for a complete checkpoint, else what is wrong with it. Reads every byte of it."""
    try:
        return next(_faults(folder), None)
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"


def complete_checkpoints(run: Path, prefix: str = "checkpoint-") -> list[Path]:
    """The checkpoints of a run by number, oldest first. They were complete once; ``fault`` tells if still."""
    found = {path: path.name.removeprefix(prefix) for path in run.glob("*") if path.name.startswith(prefix)}
    numbered = [path for path, number in found.items() if number.isdecimal() and path.is_dir()]
    return sorted(numbered, key=lambda path: int(found[path]))


def latest_complete(run: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint without a fault; each one skipped is said with its reason.

    For the run that owns the folder, before it writes: a swap cut short by a crash is undone first.
    """
    _restore(run)
    for checkpoint in reversed(complete_checkpoints(run)):
        if not (reason := fault(checkpoint)):
            return checkpoint
        say(f"skipping {checkpoint}: {reason}")
    return None


def rotate(run: Path, keep: int | None, keep_also: Path | None) -> None:
    """Delete the oldest beyond ``keep``, never the newest nor the one named as ``keep_also``; None keeps all.

    Age is the time of writing: after resuming from 2 because 4 was broken, 3 is newer than 4. Folders
    without a manifest were not written here: they are neither counted nor deleted.
    """
    written = [path for path in complete_checkpoints(run) if (path / MANIFEST).is_file()]
    written.sort(key=lambda path: (path / MANIFEST).stat().st_mtime_ns)
    spare = [path for path in written[:-1] if keep_also is None or path.name != keep_also.name]
    with _explained(run):
        for old in spare[: max(0, len(written) - keep) if keep else 0]:
            delete(old)


def clean(run: Path) -> None:
    """Remove what crashes left of writes and deletions, once a checkpoint that was being replaced is back."""
    _restore(run)
    with _explained(run):
        for left in (left for kind in ("writing", "deleting", "replaced") for left in run.glob(f".*.{kind}")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def delete(folder: Path) -> None:
    """Delete under a hidden name, on the disk too: half a folder never bears the name of a checkpoint."""
    hidden = _hidden(folder, "deleting")
    if hidden.exists():
        shutil.rmtree(hidden)
    if folder.exists():
        folder.rename(hidden)
        _sync(folder.parent)
        shutil.rmtree(hidden)


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.{kind}")


def _seal(folder: Path) -> None:
    """Sync the files, then a manifest of them, then the folders that name them."""
    inside = sorted(path for path in folder.rglob("*") if path != folder / MANIFEST)
    files = {path.relative_to(folder).as_posix(): path for path in inside if path.is_file()}
    with ThreadPoolExecutor(2) as pool:  # one file is hashed while the disk takes another
        entries = dict(zip(files, pool.map(_synced, files.values()), strict=True))
    (folder / MANIFEST).write_bytes(_manifest(entries))
    for path in (folder / MANIFEST, *(path for path in inside if path.is_dir()), folder):
        _sync(path)


def _publish(aside: Path, target: Path) -> None:
    # A folder cannot be renamed onto a full one, so for a moment nothing bears the name. The new one is
    # complete on the disk before the old one steps aside, and the old one is deleted only after the new one
    # has the name on the disk: a crash between the renames finds both whole, and _restore puts the old back.
    replaced = _hidden(target, "replaced")
    if target.exists():
        delete(replaced)
        target.rename(replaced)
    try:
        aside.rename(target)
    finally:
        _restore(target.parent)
    _sync(target.parent)
    delete(replaced)


def _restore(run: Path) -> None:
    """Give what a swap cut short had moved aside its name again."""
    for replaced in run.glob(".*.replaced"):
        target = replaced.with_name(replaced.stem.removeprefix("."))
        with _explained(run), suppress(FileNotFoundError):  # another process of the run was faster
            if not target.exists():
                replaced.rename(target)


def _faults(folder: Path) -> Iterator[str]:
    """What is wrong, the cheap to find first."""
    if not (folder / MANIFEST).exists():
        yield "no manifest" if folder.is_dir() else "there is no such folder"
    elif (files := _read_manifest(folder / MANIFEST)) is None:
        yield f"{MANIFEST} is damaged, or of another version"
    else:
        for name, entry in files.items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != entry["size"]:
                yield f"{name} is missing" if size is None else f"{name} is {size} of {entry['size']} bytes"
        yield from (f"hash of {name} differs" for name in files if _hash(folder / name) != files[name][HASH])


def _manifest(files: dict[str, Any]) -> bytes:
    """Its own hash included: compared with this, written again from its ``files``, any changed byte shows."""
    seal = hashlib.new(HASH, json.dumps(files).encode()).hexdigest()
    return json.dumps({"format": FORMAT, HASH: seal, "files": files}, indent=1).encode()


def _read_manifest(path: Path) -> dict[str, Any] | None:
    content = path.read_bytes()
    with suppress(ValueError, KeyError, TypeError):  # not JSON, or not our JSON
        files: dict[str, Any] = json.loads(content)["files"]
        return files if content == _manifest(files) else None
    return None


def _synced(file: Path) -> dict[str, Any]:
    _sync(file)
    return {"size": file.stat().st_size, HASH: _hash(file)}


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, HASH).hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no fsync of folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_explained(run: Path) -> Iterator[None]:
    """Turn what the disk of ``run`` did to its log, record or weights into a CheckpointError; OSErrors alone."""
    try:
        yield
    except OSError:
        with _explained(run, ways_out="free some"):
            raise


@contextmanager
def _explained(run: Path, ways_out: str = "free some, keep fewer with --save_total_limit") -> Iterator[None]:
    """Turn what the disk of ``run`` did into a CheckpointError; errors of other origin pass.

    ``ways_out``: of a full disk."""
    try:
        yield
    except Exception as error:
        number = _disk_trouble(error, run)
        if number not in _TROUBLE:
            raise
        left = shutil.disk_usage(run).free / 1e6 if run.is_dir() else 0
        trouble = _TROUBLE[number].format(left=left, ways_out=ways_out)
        raise CheckpointError(f"cannot write into {run}: {trouble}") from error


def _disk_trouble(error: Exception, run: Path) -> int:
    """The errno of it, 0 for none; torch and safetensors raise a full or vanished disk without a number."""
    if isinstance(error, OSError):
        file = Path(os.fsdecode(error.filename or run))  # a bare name is rmtree's, elsewhere is not our trouble
        ours = len(file.parts) == 1 or file.absolute().is_relative_to(run.absolute())
        return error.errno or 0 if ours else 0
    if not run.is_dir():
        return errno.ENOENT
    return errno.ENOSPC if shutil.disk_usage(run).free < NEARLY_FULL else 0
