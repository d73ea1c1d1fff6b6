"""What a reader needs to know besides the file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReaderSettings:
    """Settings of all readers.

    Attributes:
        separator: What separates the documents of a .txt file, with LF newlines.
        columns: The columns that are needed, as far as a file has them, dotted names included; None for all. Formats
            that store columns separately read only these.
    """

    separator: str
    columns: tuple[str, ...] | None = None
