"""A validation split for sources that have none: drawn from a seed, without knowing the count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random


def draws(window: int, seed: int) -> Iterator[int]:
    """The position that is held out in each window of ``window`` documents."""
    random = Random(seed).random  # the one method whose sequence Python keeps between versions
    while True:
        yield int(random() * window)


def held_out(texts: Iterable[str], window: int, seed: int) -> Iterator[str]:
    """One text of every ``window``; together with ``kept`` each text once, in order."""
    return (text for text, drawn in _marked(texts, window, seed) if drawn)


def kept(texts: Iterable[str], window: int, seed: int) -> Iterator[str]:
    """What ``held_out`` leaves."""
    return (text for text, drawn in _marked(texts, window, seed) if not drawn)


def too_few(count: int, window: int, seed: int) -> bool:
    """Whether ``count`` texts leave either part empty."""
    return count < 2 or (count < window and next(draws(window, seed)) >= count)


def _marked(texts: Iterable[str], window: int, seed: int) -> Iterator[tuple[str, bool]]:
    positions, drawn = draws(window, seed), 0
    for index, text in enumerate(texts):
        if index % window == 0:
            drawn = next(positions)
        yield text, index % window == drawn
