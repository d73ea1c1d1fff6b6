"""The user's own files: expanding paths and globs, checking and reading them."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from slm_data.errors import DataError
from slm_data.sources.formats import READERS
from slm_data.sources.options import SourceOptions


def find_files(patterns: Sequence[str], flag: str) -> tuple[Path, ...]:
    """Expand paths and globs to files, in order and without duplicates.

    Args:
        patterns: Paths or globs.
        flag: The flag that named them, for error messages.

    Raises:
        DataError: A file is missing, empty or of an unknown format, or a glob matches nothing.
    """
    paths = dict.fromkeys(path for pattern in patterns for path in _expand(pattern, flag))
    for path in paths:
        _check_file(path)
    return tuple(paths)


def read_files(paths: Sequence[Path], options: SourceOptions) -> Iterator[str]:
    """Yield the documents of all files, one file after another."""
    for path in paths:
        try:
            yield from READERS[path.suffix.lower()](path, options)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def files_identity(paths: Sequence[Path]) -> str:
    """Return a string that changes when a file changes: absolute path, size and modification time of each."""
    stats = [(path, path.stat()) for path in paths]
    return json.dumps([[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats])


def _expand(pattern: str, flag: str) -> list[Path]:
    path = Path(pattern).expanduser()
    # A file whose name contains glob characters, such as "[1].txt", is taken literally.
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in matches if match.is_file()]
    if not files:
        raise DataError(f"--{flag} {pattern!r} matches no file; check the pattern and the folder")
    return files


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"there is no file {path}; check the path")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name its files, for example '{path}/*.jsonl'")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path} has an unknown format {path.suffix!r}; supported are {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; use a file that contains text")
