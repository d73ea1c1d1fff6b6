"""Moving the final weights of a run into its folder."""

from __future__ import annotations

import os
from pathlib import Path

from slm_train.checkpoints.fsync import sync


def move_files(source: Path, folder: Path) -> None:
    """Sync the files in ``source`` and move them into ``folder`` one by one, each complete; remove ``source``."""
    for file in sorted(source.iterdir()):
        sync(file)
        os.replace(file, folder / file.name)
    source.rmdir()
