"""Forcing files and folders onto the disk."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until ``path`` is on the disk: the content of a file, or the entries of a folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no fsync of folders
    # Files are opened for writing: Windows syncs no others.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
