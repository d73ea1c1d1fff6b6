"""A seeded validation split for sources without one; works on streams of unknown length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from slm_data.examples.types import Example


def held_out_positions(window: int, seed: int) -> Iterator[int]:
    """Yield the position held out in each successive window of ``window`` documents."""
    # Python guarantees the same sequence in all versions for Random.random only.
    random = Random(seed).random
    while True:
        yield int(random() * window)


def validation_texts(texts: Iterable[Example], window: int, seed: int) -> Iterator[Example]:
    """Yield one text of every ``window``, in order. Together with ``training_texts`` every text occurs once."""
    return (text for text, is_held_out in _marked(texts, window, seed) if is_held_out)


def training_texts(texts: Iterable[Example], window: int, seed: int) -> Iterator[Example]:
    """Yield the texts that ``validation_texts`` leaves out, in order."""
    return (text for text, is_held_out in _marked(texts, window, seed) if not is_held_out)


def is_too_small(count: int, window: int, seed: int) -> bool:
    """Return whether one part would be empty after splitting ``count`` texts."""
    return count < 2 or (count < window and next(held_out_positions(window, seed)) >= count)


def _marked(texts: Iterable[Example], window: int, seed: int) -> Iterator[tuple[Example, bool]]:
    """Yield each text, and whether it is held out."""
    positions, held_out = held_out_positions(window, seed), 0
    for index, text in enumerate(texts):
        if index % window == 0:
            held_out = next(positions)
        yield text, index % window == held_out
