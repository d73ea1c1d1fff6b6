"""Functions of huggingface_hub that it exports without marking them as exported, for type checkers."""

from __future__ import annotations

import sys

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id  # type: ignore[attr-defined]  # documented


def can_be_repository(name: str) -> bool:
    """Return whether the hub can have a repository of that name, with or without an owner."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def show_progress_on_terminals() -> None:
    """Turn off progress bars where nobody watches them."""
    if not sys.stderr.isatty():
        disable_progress_bars()
