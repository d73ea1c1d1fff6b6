"""Parsing plots that are written as text, and generating stories from them.

A plot is a sequence of beats, each with several alternative wordings, one per line:

    == <name> [maybe | with <feature>]
    a line with {slots}, [this|that] choices and <macros>

and a number of frames, the versions of the plot. A frame defines macros; a line with a macro that has several
definitions stands for one wording per definition:

    -- <name>
    macro: its definition, itself a line

A slash between two spaces, or at the start of a line before a space, starts a new paragraph.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from slm_data.sample.slots import Draw, pick

Line = tuple[tuple[str, ...], ...]  # parts, each a choice of texts; a single text is fixed
Macros = Mapping[str, list[str]]

_PARAGRAPH = " / "  # after joining lines with a space
_MACRO = re.compile(r"<(\w+)>")
_CHOICE = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Beat:
    """A step of the plot. `when` is empty (always told), "maybe" (told half of the time), or a required feature."""

    name: str
    when: str
    lines: tuple[Line, ...]

    def is_told(self, draw: Draw, feature: str) -> bool:
        if self.when == "maybe":
            return draw() < 0.5
        return self.when in ("", feature)


@dataclass(frozen=True)
class Plot:
    """A plot in several versions, each a sequence of beats."""

    name: str
    versions: tuple[tuple[Beat, ...], ...]

    def tell(self, draw: Draw, feature: str) -> str:
        """Generate a text of the plot, with its slots still to be filled in."""
        beats = pick(draw, self.versions)
        text = " ".join(say(pick(draw, beat.lines), draw) for beat in beats if beat.is_told(draw, feature))
        return text.replace(_PARAGRAPH, "\n")


@dataclass
class Outline:
    """A parsed plot: beats as (name, when, lines), and the macro definitions of each frame."""

    beats: list[tuple[str, str, list[str]]] = field(default_factory=list)
    frames: list[dict[str, list[str]]] = field(default_factory=list)


def say(line: Line, draw: Draw) -> str:
    """Return the text of a line, with one of each choice drawn."""
    return "".join([part[0] if len(part) == 1 else part[int(draw() * len(part))] for part in line])


def read_outline(text: str) -> Outline:
    """Parse the text of a plot into beats and frames."""
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
            macro, definition = line.split(": ", 1)
            outline.frames[-1].setdefault(macro, []).append(definition)
        else:
            outline.beats[-1][2].append(line)
    return outline


def make_plot(name: str, text: str, shared: Macros) -> Plot:
    """Return the plot written in `text`; `shared` macros are defined in every frame."""
    outline = read_outline(text)
    return Plot(name, tuple(_version(outline, {**shared, **frame}) for frame in outline.frames or [{}]))


def _version(outline: Outline, macros: Macros) -> tuple[Beat, ...]:
    return tuple(
        Beat(name, when, tuple(_parts(full) for line in lines for full in fill(line, macros)))
        for name, when, lines in outline.beats
    )


def fill(line: str, macros: Macros) -> Iterator[str]:
    """Yield the line with its macros replaced, once for every combination of definitions."""
    match = _MACRO.search(line)
    if match is None:
        yield line
        return
    if match[1] not in macros:
        raise ValueError(f"No frame defines the macro <{match[1]}> of the line {line!r}.")
    for definition in macros[match[1]]:
        yield from fill(line[: match.start()] + definition + line[match.end() :], macros)


def _parts(line: str) -> Line:
    pieces = _CHOICE.split(line)
    choices = [tuple(piece.split("|")) if index % 2 else (piece,) for index, piece in enumerate(pieces)]
    return tuple(choice for choice in choices if choice != ("",))
