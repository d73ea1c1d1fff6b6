"""Values for the slots in a plot's lines: drawing rows of tables, articles, capitals and pronouns."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Draw = Callable[[], float]
Slots = dict[str, str]
T = TypeVar("T")

PRONOUNS = {"she": ("she", "her", "her", "herself"), "he": ("he", "him", "his", "himself")}


def pick(draw: Draw, rows: Sequence[T]) -> T:
    """Return one of the rows, drawn with `random()` alone: the only method whose sequence Python guarantees to keep."""
    return rows[int(draw() * len(rows))]


def distinct(draw: Draw, count: int, size: int) -> list[int]:
    """Return `count` different indices below `size`."""
    chosen: list[int] = []
    for _ in range(count):
        index = int(draw() * size)
        while index in chosen:
            index = (index + 1) % size
        chosen.append(index)
    return chosen


def with_article(phrase: str) -> str:
    sounds_like_a_vowel = phrase[0].lower() in "aeiou" and not phrase.lower().startswith(("one", "uni", "use"))
    return f"{'an' if sounds_like_a_vowel else 'a'} {phrase}"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def with_capitals(forms: Slots) -> Slots:
    """Return the slots, each also under a name and with a text that start with a capital letter."""
    return forms | {capital(name): capital(text) for name, text in forms.items()}


def named(key: str, phrase: str, rank: str = "") -> Slots:
    """Return the slots of a phrase: bare, with its article, and both with a capital letter."""
    forms = {key: phrase, f"a_{key}": with_article(phrase)}
    return {name + rank: text for name, text in with_capitals(forms).items()}


def single(key: str, phrases: Iterable[str]) -> list[Slots]:
    """Return a table of slots with one row for each phrase."""
    return [named(key, phrase) for phrase in phrases]


def pronouns(gender: str, rank: str) -> Slots:
    forms = dict(zip(("he", "him", "his", "himself"), PRONOUNS[gender], strict=True))
    return {name + rank: text for name, text in with_capitals(forms).items()}
