"""The content of the user's files: identified by a hash, and verified while it is read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import xxhash

from slm_data.errors import DataError
from slm_data.sources.file_formats import parse_file_name

BLOCK_BYTES = 1 << 20


class FileStatus(NamedTuple):
    """What the operating system changes together with the content of a file. A change alone does not prove one."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


@dataclass(frozen=True)
class SourceFile:
    """A file, and the hash of its bytes at the time it was found.

    Attributes:
        path: Where it is.
        kind: Its format, one of the values of ``KINDS``.
        compression: ``gzip``, ``zstd`` or None.
        digest: The hash of its bytes, compressed if it is.
        status: The status of the file when it was hashed.
    """

    path: Path
    kind: str
    compression: str | None
    digest: str
    status: FileStatus

    @property
    def identity(self) -> tuple[str, str]:
        """The same for equal content that is read in the same way, wherever it is and whatever it is called."""
        return self.kind, self.digest


def identify(path: Path) -> SourceFile:
    """Hash a file of a known format. Raises DataError if it cannot be read, or is being written to."""
    name = parse_file_name(path)
    assert name.kind is not None, path
    with explain_read_errors(path), path.open("rb", buffering=0) as file:
        before = _status(file)
        digest = _digest(file)
        if _status(file) != before:
            raise _changed(path)
    return SourceFile(path, name.kind, name.compression, digest, before)


def check_unchanged(file: SourceFile) -> None:
    """Raise DataError if the content of ``file`` is no longer the one that was hashed."""
    with explain_read_errors(file.path), file.path.open("rb", buffering=0) as current:
        # touch, a move and a hard link change the status, but not the content.
        if _status(current) != file.status and _digest(current) != file.digest:
            raise _changed(file.path)


@contextmanager
def open_verified(file: SourceFile) -> Iterator[io.BufferedReader]:
    """Open a file for one sequential read; its bytes are hashed again on the way.

    Raises:
        DataError: The content is not the one that was hashed: on entry, or, if the block is left normally, on exit.
    """
    check_unchanged(file)
    with explain_read_errors(file.path), file.path.open("rb", buffering=0) as raw:
        hashed = _HashedFile(raw)
        yield io.BufferedReader(hashed, BLOCK_BYTES)
        if hashed.digest_of_all() != file.digest:
            raise _changed(file.path)
        check_unchanged(file)  # what was read before the file changed may all have been in a buffer


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Raise DataError in place of an OSError about ``path``."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


class _HashedFile(io.RawIOBase):
    """A raw file that hashes what is read from it."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._hash = xxhash.xxh3_128()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer)
        self._hash.update(memoryview(buffer)[:count])
        return int(count)

    def digest_of_all(self) -> str:
        """Read what is left, for example the padding of a compressed file, and return the hash of the whole file."""
        while block := self._raw.read(BLOCK_BYTES):
            self._hash.update(block)
        return self._hash.hexdigest()


def _status(file: BinaryIO | io.FileIO) -> FileStatus:
    stat = os.fstat(file.fileno())
    return FileStatus(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)


def _digest(file: BinaryIO | io.FileIO) -> str:
    digest = xxhash.xxh3_128()
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _changed(path: Path) -> DataError:
    return DataError(f"{path} changed while it was being read; start again once it is complete")
