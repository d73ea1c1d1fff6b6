"""Folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from slm_adapters.errors import AdapterError


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yield a folder next to ``out`` that replaces it after the block. After an error ``out`` is unchanged.

    Raises AdapterError if the disk is full or not writable.
    """
    out = out.resolve()
    staging = out.with_name(f".{out.name}.writing")
    shutil.rmtree(staging, ignore_errors=True)  # left by a program that was killed
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        _sync_to_disk(staging)
        _replace(out, staging)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot write {out}: {error}; give a folder on another disk") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sync_to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _replace(out: Path, new: Path) -> None:
    """Rename ``new`` to ``out``. A folder with files cannot be renamed over, so the old one is moved aside first."""
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
