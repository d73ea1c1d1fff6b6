"""``run.json``: the record of a run, replaced atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from slm_train.errors import TrainError
from slm_train.run_folder.strict_json import write_json

RUN_FILE = "run.json"


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return the record of the run in ``folder``, or None if there is none. Raises TrainError for broken JSON."""
    path = folder / RUN_FILE
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else None
    except ValueError as error:
        raise TrainError(f"{path} is not valid JSON; repair it or give another --output_dir") from error


def write_run(folder: Path, record: dict[str, Any]) -> None:
    """Write the record to a temporary file and rename it, so that no reader sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RUN_FILE}.writing"
    temporary.write_text(write_json(record, indent=2) + "\n")
    os.replace(temporary, folder / RUN_FILE)
