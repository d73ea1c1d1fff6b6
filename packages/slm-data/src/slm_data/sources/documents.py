"""``Documents``: examples that can be read repeatedly. ``Corpus``: those for training and for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from slm_data.examples.data_formats import DataFormat
from slm_data.examples.types import Example, text_of_example


@dataclass(frozen=True)
class Documents:
    """Texts, conversations or pairs that can be read any number of times, always the same ones in the same order.

    Iterating skips texts that contain only white space, and raises DataError for a fault in the source.

    Attributes:
        name: For messages.
        identity: Changes whenever the texts change; part of the token store's fingerprint.
        read: Returns a new iterator over all examples.
        data_format: What they are.
    """

    name: str
    identity: str
    read: Callable[[], Iterator[Example]]
    data_format: DataFormat = "text"

    def __iter__(self) -> Iterator[Example]:
        return (
            example for example in self.read() if not isinstance(example, str) or (example and not example.isspace())
        )

    def texts(self) -> Iterator[str]:
        """Yield all that is written in each example, without a chat template."""
        return map(text_of_example, self)


@dataclass(frozen=True)
class Corpus:
    """Training and validation texts; ``notes`` are one-line messages for the user."""

    name: str
    train: Documents
    validation: Documents
    notes: tuple[str, ...] = ()
