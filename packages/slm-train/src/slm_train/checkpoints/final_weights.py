"""The final files of a run: weights and tokenizer as the trainer writes them, and the model card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slm_adapters import has_own_readme, run_card, write_model_card
from slm_train.checkpoints.files.fsync import sync


def add_model_card(files: Path, folder: Path, record: dict[str, Any]) -> None:
    """Write the model card of the run to ``files``, unless ``folder``, where they belong, has the user's README.md."""
    if not has_own_readme(folder):
        write_model_card(files, run_card(record))


def move_files(source: Path, folder: Path) -> None:
    """Sync the files in ``source`` and move them into ``folder`` one by one, each complete; remove ``source``."""
    for file in sorted(source.iterdir()):
        sync(file)
        os.replace(file, folder / file.name)
    source.rmdir()
