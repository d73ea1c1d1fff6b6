"""Finding run folders under a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from slm_lab.runs.record import RECORD_FILE


def find_runs(root: Path) -> Iterator[Path]:
    """Yield the folders that contain a run.json, in alphabetical order, including ``root`` itself.

    Symbolic links are followed, and no folder is visited twice. Checkpoints and hidden folders are skipped.
    """
    visited: set[tuple[int, int]] = set()
    for path, subfolders, files in os.walk(root, followlinks=True):
        # Device and inode identify a folder whatever the path to it, which also ends loops of links.
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            subfolders.clear()
            continue
        visited.add(identity)
        # os.walk descends into what remains in this list.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "checkpoint-")))
        if RECORD_FILE in files:
            yield Path(path)
