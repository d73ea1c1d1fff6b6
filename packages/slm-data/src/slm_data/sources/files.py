"""The user's own files: expanding paths, folders and globs."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slm_data.errors import DataError
from slm_data.sources.content import explain_read_errors
from slm_data.sources.file_formats import SUPPORTED, parse_file_name
from slm_data.sources.holdout import VALIDATION_SPLITS
from slm_data.sources.hub.saved_datasets import (
    arrow_files,
    is_saved_dataset,
    is_saved_dataset_dict,
    split_folder,
    split_names,
)


@dataclass
class FoundFiles:
    """Files to read, in order and without duplicates.

    Attributes:
        paths: The files.
        validation: Files of the validation splits of saved datasets that were given as training texts.
        notes: One-line messages about folders.
    """

    paths: list[Path] = field(default_factory=list)
    validation: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_files(patterns: Sequence[str], flag: str) -> FoundFiles:
    """Expand paths, folders and globs to files.

    Args:
        patterns: Paths, folders or globs.
        flag: The flag that named them: ``train_file``, or ``validation_file``, which selects the validation split of a
            saved dataset.

    Raises:
        DataError: A file is missing, empty or of an unknown format, or a folder or glob contains no file to read.
    """
    found = FoundFiles()
    for pattern in patterns:
        for path in _expand(pattern, flag):
            if path.is_dir():
                _add_folder(path, flag, found)
            else:
                _check_file(path)
                found.paths.append(path)
    return FoundFiles(_without_duplicates(found.paths), _without_duplicates(found.validation), found.notes)


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
    name = parse_file_name(path)
    if name.kind is None:
        suffix = name.suffix + name.compression_suffix
        raise DataError(f"{path} has an unknown format {suffix!r}; supported are {SUPPORTED}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; use a file that contains text")


def _add_folder(folder: Path, flag: str, found: FoundFiles) -> None:
    if is_saved_dataset_dict(folder):
        _add_saved_splits(folder, flag, found)
        return
    files, skipped = list[Path](), 0
    for path in _walk(folder):
        if _is_readable(path):
            files.append(path)
        else:
            skipped += 1
    if not files:
        others = f", only {skipped} other{'' if skipped == 1 else 's'}" if skipped else ""
        raise DataError(f"{folder} contains no file to read{others}; supported are {SUPPORTED}")
    found.paths += files
    if not is_saved_dataset(folder):
        found.notes.append(_describe(folder, files, skipped))


def _add_saved_splits(folder: Path, flag: str, found: FoundFiles) -> None:
    wanted = VALIDATION_SPLITS if flag == "validation_file" else ("train",)
    split = split_folder(folder, wanted)
    if split is None:
        raise DataError(
            f"{folder} has no split {wanted[0]!r}, only {', '.join(split_names(folder)) or 'none'}; "
            f"give the folder of a split, for example --{flag} {folder}/SPLIT"
        )
    found.paths += _shards(split)
    if flag == "train_file" and (validation := split_folder(folder, VALIDATION_SPLITS)):
        found.validation += _shards(validation)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in a fixed order; those of a saved dataset in the order of its rows."""
    if is_saved_dataset(folder):
        yield from _shards(folder)
        return
    with explain_read_errors(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        # A link to a folder could lead back to it.
        if not entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)
        elif not entry.name.startswith("."):
            yield from _walk(Path(entry.path))


def _shards(folder: Path) -> Iterator[Path]:
    for path in arrow_files(folder):
        _check_file(path)  # without one of them, rows would be missing
        yield path


def _is_readable(path: Path) -> bool:
    is_known = parse_file_name(path).kind is not None and not path.name.startswith(".")
    return is_known and path.is_file() and path.stat().st_size > 0


def _describe(folder: Path, files: Sequence[Path], skipped: int) -> str:
    kinds = Counter("".join(parse_file_name(path)[1:]).lower() for path in files)
    counts = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common())
    rest = f"; {skipped} skipped (hidden, empty or of another format)" if skipped else ""
    return f"{folder}: {len(files)} file{'' if len(files) == 1 else 's'} ({counts}){rest}"


def _without_duplicates(paths: Sequence[Path]) -> list[Path]:
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path)
    return list(unique.values())
