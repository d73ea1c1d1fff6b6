"""The user's own files: found by path or glob, read one after another."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from slm_data.errors import DataError
from slm_data.options import SourceOptions
from slm_data.readers import READERS


def find_files(patterns: Sequence[str], flag: str) -> tuple[Path, ...]:
    """The files that paths and globs name, in order, each once. Raises DataError where one is
    missing, empty or of an unknown kind; ``flag`` is what the user typed before them."""
    found = dict.fromkeys(path for pattern in patterns for path in _match(pattern, flag))
    for path in found:
        _check_file(path)
    return tuple(found)


def read_files(paths: Sequence[Path], options: SourceOptions) -> Iterator[str]:
    """The documents of all files, one file after another."""
    for path in paths:
        try:
            yield from READERS[path.suffix.lower()](path, options)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def identity_of(paths: Sequence[Path]) -> str:
    """Changes whenever a file does: full path, size and time of the last change of each."""
    stats = [(path, path.stat()) for path in paths]
    return json.dumps([[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats])


def _match(pattern: str, flag: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not any(match.is_file() for match in matches):
        raise DataError(f"--{flag} {pattern!r} matches no file; check the pattern and the folder")
    return [match for match in matches if match.is_file()]


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"there is no file {path}; check the path")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name its files, for example '{path}/*.jsonl'")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path} is of an unknown kind {path.suffix!r}; readable are {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; give a file with text in it")
