"""Reads a plot written as text and tells it.

A plot is a row of beats, each with several ways to say it, one a line:

    == <name> [maybe | with <feature>]
    a line with {slots}, [this|that] choices and <macros>

and of frames, the versions of the plot, which say what the macros mean (a macro with several meanings is
any one of them, in each place anew):

    -- <name>
    macro: its meaning, itself a line
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from slm_data.sample.cast import Draw, pick

Line = tuple[tuple[str, ...], ...]  # each part a choice; a choice of one is plain text
Macros = Mapping[str, list[str]]

_MACRO = re.compile(r"<(\w+)>")
_CHOICE = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Beat:
    """A step of the plot. `when` is empty (always told), "maybe", or the feature that a story must have."""

    name: str
    when: str
    lines: tuple[Line, ...]

    def is_told(self, draw: Draw, feature: str) -> bool:
        if self.when == "maybe":
            return draw() < 0.5
        return self.when in ("", feature)


@dataclass(frozen=True)
class Plot:
    name: str
    versions: tuple[tuple[Beat, ...], ...]

    def tell(self, draw: Draw, feature: str) -> str:
        """One telling, its slots still open."""
        beats = pick(draw, self.versions)
        return " ".join(say(pick(draw, beat.lines), draw) for beat in beats if beat.is_told(draw, feature))


@dataclass
class Outline:
    """A plot as written: beats as (name, when, lines), and what each frame says its macros mean."""

    beats: list[tuple[str, str, list[str]]] = field(default_factory=list)
    frames: list[dict[str, list[str]]] = field(default_factory=list)


def say(line: Line, draw: Draw) -> str:
    return "".join([part[0] if len(part) == 1 else part[int(draw() * len(part))] for part in line])


def read_outline(text: str) -> Outline:
    outline = Outline()
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            name, _, when = line[3:].partition(" ")
            outline.beats.append((name, when.removeprefix("with "), []))
        elif line.startswith("-- "):
            outline.frames.append({})
        elif outline.frames:
            macro, meaning = line.split(": ", 1)
            outline.frames[-1].setdefault(macro, []).append(meaning)
        else:
            outline.beats[-1][2].append(line)
    return outline


def make_plot(name: str, text: str, shared: Macros) -> Plot:
    """The plot of a text; `shared` macros are known to every frame."""
    outline = read_outline(text)
    return Plot(name, tuple(_version(outline, {**shared, **frame}) for frame in outline.frames or [{}]))


def _version(outline: Outline, macros: Macros) -> tuple[Beat, ...]:
    return tuple(
        Beat(name, when, tuple(_parts(full) for line in lines for full in fill(line, macros)))
        for name, when, lines in outline.beats
    )


def fill(line: str, macros: Macros) -> Iterator[str]:
    """The line with each macro replaced, once for every combination of meanings."""
    found = _MACRO.search(line)
    if found is None:
        yield line
        return
    if found[1] not in macros:
        raise ValueError(f"No frame says what <{found[1]}> means in the line {line!r}.")
    for meaning in macros[found[1]]:
        yield from fill(line[: found.start()] + meaning + line[found.end() :], macros)


def _parts(line: str) -> Line:
    pieces = _CHOICE.split(line)
    choices = [tuple(piece.split("|")) if index % 2 else (piece,) for index, piece in enumerate(pieces)]
    return tuple(choice for choice in choices if choice != ("",))
