"""Pages of mapped weight files that are in memory, and need not be once their weights are copied."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

SUFFIX = ".safetensors"  # transformers maps such files into memory
MADV_DONTNEED = 4  # of Linux: the pages are read again, from the system's cache of the file, when they are used
BYTES_BETWEEN = 64 << 20


class CopiedWeights:
    """Drops the pages of weight files whenever 64 MB of weights were copied.

    Otherwise a process holds the weights twice, in the file's pages and in the copy.
    """

    def __init__(self) -> None:
        self._nbytes = 0

    def add(self, nbytes: int) -> None:
        """Count a copied weight of so many bytes."""
        self._nbytes += nbytes
        if self._nbytes >= BYTES_BETWEEN:
            drop_file_pages()
            self._nbytes = 0


def drop_file_pages() -> None:
    """Drop the pages of all mapped weight files in which nothing was changed. Nothing is lost. On Linux only."""
    with suppress(OSError, AttributeError):
        mappings = Path("/proc/self/smaps").read_text()
        madvise = ctypes.CDLL(None).madvise
        for start, end in unchanged_mappings(mappings):
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def unchanged_mappings(smaps: str) -> list[tuple[int, int]]:
    """The first and the end address of the weight files' mappings in ``smaps`` without a changed page.

    A page of a private mapping that was written to is anonymous: its values are in no file any more.
    """
    found: dict[tuple[int, int], set[str]] = {}
    current: set[str] = set()
    for line in smaps.splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            start, _, end = name.partition("-")
            current = set()
            if line.endswith(SUFFIX):
                found[int(start, 16), int(end, 16)] = current
        elif values[:1] == ["0"]:
            current.add(name)
    return [addresses for addresses, zero in found.items() if {"Anonymous:", "Swap:"} <= zero]
