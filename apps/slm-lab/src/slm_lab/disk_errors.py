"""Errors while writing into a folder, as one sentence with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slm_lab.errors import LabError


@contextmanager
def explain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError while writing into ``folder`` into a LabError."""
    try:
        yield
    except OSError as error:
        raise LabError(
            f"cannot write into {folder}: {error.strerror}; make it writable or choose another folder"
        ) from error
