"""A seeded validation split for sources without one; works on streams of unknown length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import TypeVar

# Never "test": after choosing hyperparameters on a test split, figures on it would mean nothing.
VALIDATION_SPLITS = ("validation", "valid", "dev")

T = TypeVar("T")  # a text or another example


def held_out_positions(window: int, seed: int) -> Iterator[int]:
    """Yield the position held out in each successive window of ``window`` documents."""
    # Python guarantees the same sequence in all versions for Random.random only.
    random = Random(seed).random
    while True:
        yield int(random() * window)


def validation_texts(texts: Iterable[T], window: int, seed: int) -> Iterator[T]:
    """Yield one text of every ``window``, in order. Together with ``training_texts`` every text occurs once."""
    return (text for text, is_held_out in marked(texts, window, seed) if is_held_out)


def training_texts(texts: Iterable[T], window: int, seed: int) -> Iterator[T]:
    """Yield the texts that ``validation_texts`` leaves out, in order."""
    return (text for text, is_held_out in marked(texts, window, seed) if not is_held_out)


def marked(texts: Iterable[T], window: int, seed: int) -> Iterator[tuple[T, bool]]:
    """Yield each text, and whether it is held out."""
    positions, held_out = held_out_positions(window, seed), 0
    for index, text in enumerate(texts):
        if index % window == 0:
            held_out = next(positions)
        yield text, index % window == held_out
