"""``Documents``: texts that can be read repeatedly. ``Corpus``: those for training and for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Documents:
    """Texts that can be read any number of times, always the same ones in the same order.

    Iterating skips documents that contain only white space, and raises DataError for a fault in the source.

    Attributes:
        name: For messages.
        identity: Changes whenever the texts change; part of the token store's fingerprint.
        read: Returns a new iterator over all texts.
    """

    name: str
    identity: str
    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return (text for text in self.read() if text and not text.isspace())


@dataclass(frozen=True)
class Corpus:
    """Training and validation texts; ``notes`` are one-line messages for the user."""

    name: str
    train: Documents
    validation: Documents
    notes: tuple[str, ...] = ()
