"""GGUF files as base models: checks before transformers reads them, which give one sentence each."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from slm_adapters.errors import AdapterError

MAGIC = b"GGUF"
DAMAGED_FILE = "the file is damaged, cut short, or of an architecture that transformers does not read; copy it again"


def is_gguf_path(name: str | Path) -> bool:
    """Whether ``name`` is meant to be a GGUF file."""
    return Path(name).suffix.lower() == ".gguf"


def check_gguf_file(path: Path) -> None:
    """Raise AdapterError if ``path`` is missing or not a GGUF file, or if nothing is installed that reads it."""
    if not path.is_file():
        raise AdapterError(f"file {path} does not exist; check the path")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise AdapterError(f"{path} is not a GGUF file: its first bytes are not GGUF; copy it again")
    check_gguf_installed(str(path))


def check_gguf_installed(subject: str) -> None:
    """Raise AdapterError if the package gguf, which ``subject`` needs, is not installed."""
    if find_spec("gguf") is None:
        remedy = "install it with pip install slm-adapters[gguf]"
        raise AdapterError(f"{subject} needs the package gguf, which is not installed; {remedy}")
