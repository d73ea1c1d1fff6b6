"""Folders written by ``save_to_disk`` of the datasets library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slm_data.errors import DataError

STATE_FILE = "state.json"  # of a Dataset
SPLITS_FILE = "dataset_dict.json"  # of a DatasetDict, whose splits are folders


def is_saved_dataset(folder: Path) -> bool:
    return (folder / STATE_FILE).is_file() and (folder / "dataset_info.json").is_file()


def is_saved_dataset_dict(folder: Path) -> bool:
    return (folder / SPLITS_FILE).is_file()


def arrow_files(folder: Path) -> list[Path]:
    """Return the files of a saved Dataset, in the order of its rows."""
    state = _load(folder / STATE_FILE)
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} was saved by an old version of datasets; load it and save it again with a newer one")
    try:
        return [folder / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise _broken(folder / STATE_FILE, f"no {error}") from error


def split_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the folder of the first of ``names`` that a saved DatasetDict has; None if it has none of them."""
    available = split_names(folder)
    return next((folder / name for name in names if name in available), None)


def split_names(folder: Path) -> list[str]:
    """Return the names of the splits of a saved DatasetDict."""
    splits = _load(folder / SPLITS_FILE).get("splits")
    if not isinstance(splits, list):
        raise _broken(folder / SPLITS_FILE, "no list of splits")
    return [str(name) for name in splits]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(content, dict):
        raise _broken(path, "not a JSON object")
    return content


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is broken ({reason}); save the dataset again")
