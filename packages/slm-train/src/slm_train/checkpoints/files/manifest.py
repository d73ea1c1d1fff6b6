"""``manifest.json``: sizes and hashes of a checkpoint's files, and verification of a checkpoint against them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from slm_train.checkpoints.files.fsync import sync

MANIFEST = "manifest.json"
_FORMAT, _HASH = 1, "blake2b"


def write_manifest(folder: Path) -> None:
    """Sync the files of ``folder``, then a manifest of them, then the folders that contain them."""
    inside = sorted(path for path in folder.rglob("*") if path != folder / MANIFEST)
    files = {path.relative_to(folder).as_posix(): path for path in inside if path.is_file()}
    with ThreadPoolExecutor(2) as pool:  # one file is hashed while the disk writes another
        entries = dict(zip(files, pool.map(_sync_and_describe, files.values()), strict=True))
    (folder / MANIFEST).write_bytes(_content(entries))
    for path in (folder / MANIFEST, *(path for path in inside if path.is_dir()), folder):
        sync(path)


def find_fault(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if it is complete. Reads every byte of it."""
    try:
        return next(_faults(folder), None)
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"


def _faults(folder: Path) -> Iterator[str]:
    """Yield faults, those that are quick to find first."""
    if not (folder / MANIFEST).exists():
        yield "no manifest" if folder.is_dir() else "there is no such folder"
    elif (files := _read_manifest(folder / MANIFEST)) is None:
        yield f"{MANIFEST} is damaged, or of another version"
    else:
        for name, entry in files.items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != entry["size"]:
                yield f"{name} is missing" if size is None else f"{name} is {size} of {entry['size']} bytes"
        yield from (f"hash of {name} differs" for name in files if _hash(folder / name) != files[name][_HASH])


def _content(files: dict[str, Any]) -> bytes:
    """Return the manifest as bytes, its own hash included.

    To verify a manifest, it is written again from its ``files`` and compared, so that any changed byte is detected.
    """
    files_hash = hashlib.new(_HASH, json.dumps(files).encode()).hexdigest()
    return json.dumps({"format": _FORMAT, _HASH: files_hash, "files": files}, indent=1).encode()


def _read_manifest(path: Path) -> dict[str, Any] | None:
    content = path.read_bytes()
    with suppress(ValueError, KeyError, TypeError):  # not JSON, or not the JSON of a manifest
        files: dict[str, Any] = json.loads(content)["files"]
        return files if content == _content(files) else None
    return None


def _sync_and_describe(file: Path) -> dict[str, Any]:
    sync(file)
    return {"size": file.stat().st_size, _HASH: _hash(file)}


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, _HASH).hexdigest()
