"""Whether a run can write into a folder, found out without writing."""

from __future__ import annotations

import os
from pathlib import Path

from slm_train.errors import TrainError, shown

# Room for the longest name of a file that a run writes below the folder.
_LONGEST_PATH = 4096 - 256
_LONGEST_SHOWN_PATH = 250  # so that a message with two paths is shown whole


def check_folder(flag: str, folder: Path) -> None:
    """Raise TrainError if ``folder`` is a file, is below one, cannot be created, or cannot be written into."""
    text = _shown(folder)
    if len(os.fsencode(folder.absolute())) > _LONGEST_PATH:
        raise TrainError(f"{flag} {text} is too long; give another")
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise TrainError(f"{flag} {text}: {error.strerror}; give another") from None
    if not nearest.is_dir():
        below = "is a file" if nearest == folder else f"is below {_shown(nearest)}, which is a file"
        raise TrainError(f"{flag} {text} {below}; give a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise TrainError(
            f"{flag} {text}: cannot write into {_shown(nearest)}; make it writable, or give another folder"
        )


def _shown(path: Path) -> str:
    return shown(str(path), _LONGEST_SHOWN_PATH)
