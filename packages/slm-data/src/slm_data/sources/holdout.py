"""A validation split for sources without one; works on streams of unknown length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from slm_data.examples.types import Example

# Never "test": after choosing hyperparameters on a test split, figures on it would mean nothing.
VALIDATION_SPLITS = ("validation", "valid", "dev")


def held_out_positions(window: int, seed: int) -> Iterator[int]:
    """Yield the position held out in each successive window of ``window`` documents."""
    # Python guarantees the same sequence in all versions for Random.random only.
    random = Random(seed).random
    while True:
        yield int(random() * window)


def mark_documents(examples: Iterable[Example], window: int, seed: int) -> Iterator[tuple[Example, bool]]:
    """Yield each example, and whether it is held out: one of every ``window`` is."""
    positions, held_out = held_out_positions(window, seed), 0
    for index, example in enumerate(examples):
        if index % window == 0:
            held_out = next(positions)
        yield example, index % window == held_out


def mark_end(examples: Iterable[Example], window: int) -> Iterator[tuple[Example, bool]]:
    """Yield the first part of the only text in ``examples``, then the last, which is held out; see ``cut_end``."""
    for text in examples:
        parts = cut_end(text, window)
        if parts is not None:
            yield parts[0], False
            yield parts[1], True


def cut_end(text: Example, window: int) -> tuple[str, str] | None:
    """Cut off about the last ``1 / window`` of a text, at a line if possible, else at a word.

    Returns:
        The two parts; None if neither a line nor a word starts in the second half.
    """
    if not isinstance(text, str):
        return None
    length = len(text.rstrip())
    target = length - round(length / window)
    for separator in ("\n", " "):
        position = text.rfind(separator, length // 2, max(target, length // 2 + 1)) + 1
        if position and text[:position].strip() and text[position:].strip():
            return text[:position], text[position:]
    return None
