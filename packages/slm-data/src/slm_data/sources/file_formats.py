"""Formats and compressions of files, by the endings of their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
# Files without columns that are one document each.
_DOCUMENT_SUFFIXES = """
    md markdown rst tex html htm xml css scss
    py pyi js mjs jsx ts tsx java kt scala c h cc cpp cxx hpp cu cs go rs swift rb php pl lua r jl hs ml ex erl clj dart
    zig sh bash sql vue yaml yml toml proto
"""
KINDS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    **{f".{suffix}": "document" for suffix in _DOCUMENT_SUFFIXES.split()},
}
KINDS_WITHOUT_COLUMNS = ("txt", "document")
COLUMNAR_KINDS = ("parquet", "arrow")  # binary: they start with magic bytes of their own
SUPPORTED = (
    ".txt, .jsonl, .json, .csv, .tsv, .parquet, .arrow, .md, source code such as .py, "
    "each also as .gz or .zst, and folders"
)


class FileName(NamedTuple):
    """A file name in parts: ``a.jsonl.gz`` is ``a``, ``.jsonl`` and ``.gz``."""

    stem: str
    suffix: str
    compression_suffix: str

    @property
    def kind(self) -> str | None:
        """The reader of the file; None if the format is unknown."""
        return KINDS.get(self.suffix.lower())

    @property
    def compression(self) -> str | None:
        return COMPRESSIONS.get(self.compression_suffix.lower())


def parse_file_name(path: Path) -> FileName:
    """Split the name of ``path`` into stem, suffix and the suffix of its compression, if any."""
    compression = path.suffix if path.suffix.lower() in COMPRESSIONS else ""
    inner = Path(path.name.removesuffix(compression))
    return FileName(inner.stem, inner.suffix, compression)


def name_of_source(pattern: str) -> str:
    """Return a short name for a path, folder or glob: without suffixes; of a glob, what precedes its magic."""
    path = Path(pattern).expanduser()
    while re.search(r"[*?[]", path.name) and not path.exists():
        # "stories-*.jsonl" is stories; "data/**/*.jsonl" is data.
        plain = re.split(r"[*?[]", path.name)[0].strip("-_. ")
        if plain:
            return plain
        path = path.parent
    name = parse_file_name(path)
    if name.kind is None:
        return path.name or path.resolve().name
    return name.stem
