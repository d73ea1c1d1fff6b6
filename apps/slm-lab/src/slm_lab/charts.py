"""Charts as inline SVG, coloured by the page's style: each line and point has its name beside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from slm_lab.axes import Scale, apart, from_zero, plain, scale, short

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 140, 14, 44  # RIGHT: room for names
LINE, LETTER = 15.0, 7.8  # of a name: its height, and the width of a letter
PLACES = 6  # colours of style.css


@dataclass(frozen=True)
class Line:
    """``points`` left to right. Lines of one ``place`` share colour and name."""

    name: str
    place: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Point:
    """``low`` to ``high`` is what ``y`` varies over."""

    name: str
    place: int
    x: float
    y: float
    low: float
    high: float
    says: str


@dataclass(frozen=True)
class Frame:
    """What a chart is called, what it shows in words, and the names of its axes."""

    title: str
    says: str
    x: str
    y: str
    key: str  # an id of its own on the page


def curves(frame: Frame, lines: Sequence[Line]) -> str:
    """Lines over a common axis from 0, named at their right ends."""
    points = [point for line in lines for point in line.points]
    x = from_zero([x for x, _ in points], LEFT, WIDTH - RIGHT)
    y = scale([y for _, y in points], HEIGHT - BOTTOM, TOP)
    return _svg(frame, [*_axes(frame, x, y, short), *(_line(line, x, y) for line in lines), *_ends(lines, x, y)])


def scatter(frame: Frame, points: Sequence[Point], *, log: bool, text: Callable[[float], str]) -> str:
    """Points with what they vary over, each named where there is room."""
    x = scale([point.x for point in points], LEFT, WIDTH - 14, log=log, room=0.18)
    y = scale([value for point in points for value in (point.low, point.high)], HEIGHT - BOTTOM, TOP, room=0.14)
    return _svg(frame, [*_axes(frame, x, y, text), *(_point(point, x, y) for point in points), *_names(points, x, y)])


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    title, says = f"{frame.key}-title", f"{frame.key}-says"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{title} {says}">'
        f'<title id="{title}">{escape(frame.title)}</title><desc id="{says}">{escape(frame.says)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _axes(frame: Frame, x: Scale, y: Scale, x_text: Callable[[float], str]) -> Iterator[str]:
    y_text = plain(y.ticks)
    for tick in y.ticks:
        yield f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{x.end:.1f}"/>'
        yield _text(LEFT - 8, y(tick) + 4, y_text(tick), "tick end")
    for tick in x.ticks:
        yield f'<path class="mark" d="M{x(tick):.1f} {HEIGHT - BOTTOM}v4"/>'
        yield _text(x(tick), HEIGHT - BOTTOM + 18, x_text(tick), "tick middle")
    yield f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{x.end:.1f}"/>'
    yield _text((LEFT + x.end) / 2, HEIGHT - 6, frame.x, "label middle")
    upright = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    yield f'<g transform="{upright}">{_text(0, 0, frame.y, "label middle")}</g>'


def _line(line: Line, x: Scale, y: Scale) -> str:
    path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
    dots = "".join(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.2"/>' for a, b in line.points)
    return f'<g class="{_colour(line.place)}"><path class="line" d="M{path}"/>{dots}</g>'


def _ends(lines: Sequence[Line], x: Scale, y: Scale) -> Iterator[str]:
    """A name for each place, beside the ends of its lines, off the others."""
    names = {line.place: line.name for line in lines}
    ends = {place: [y(line.points[-1][1]) for line in lines if line.place == place] for place in names}
    wanted = [sum(values) / len(values) for values in ends.values()]
    places = apart(wanted, LINE, TOP + 4, HEIGHT - BOTTOM)
    for (place, name), at, own in zip(names.items(), places, wanted, strict=True):
        start = x.end + 4
        yield f'<path class="{_colour(place)} lead" d="M{start:.1f} {own:.1f}L{start + 9:.1f} {at:.1f}"/>'
        yield _text(start + 12, at + 4, _cut(name, WIDTH - start - 14), f"{_colour(place)} name")


def _point(point: Point, x: Scale, y: Scale) -> str:
    at = f"{x(point.x):.1f}"
    bar = f'<path class="bar" d="M{at} {y(point.low):.1f}V{y(point.high):.1f}"/>' if point.high > point.low else ""
    dot = f'<circle class="dot" cx="{at}" cy="{y(point.y):.1f}" r="5"/>'
    return f'<g class="{_colour(point.place)}"><title>{escape(point.says)}</title>{bar}{dot}</g>'


def _names(points: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    """Each beside its point, on the side where it covers least of what is there already."""
    taken = [(x(p.x) - 6, y(p.high) - 6, x(p.x) + 6, y(p.low) + 6) for p in points]
    for point in points:
        name = _cut(point.name, 150)
        boxes = [*_sides(x(point.x), y(point.y), y(point.high), y(point.low), LETTER * len(name))]
        box = min(boxes, key=lambda box: _covered(box, taken))
        taken.append(box)
        yield _text(box[0], box[3] - 4, name, f"{_colour(point.place)} name")


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _sides(x: float, y: float, high: float, low: float, width: float) -> Iterator[Box]:
    half = LINE / 2
    yield x + 9, y - half, x + 9 + width, y + half
    yield x - 9 - width, y - half, x - 9, y + half
    for start in (x - width / 2, x - 4, x + 4 - width):
        yield start, high - 8 - LINE, start + width, high - 8
        yield start, low + 8, start + width, low + 8 + LINE


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Area of ``box`` that lies over others, or outside of the chart."""
    inside = _overlap(box, (LEFT, 0, WIDTH, HEIGHT - BOTTOM))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return 4 * outside + sum(_overlap(box, other) for other in taken)


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _cut(name: str, room: float) -> str:
    letters = max(4, math.floor(room / LETTER))
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _colour(place: int) -> str:
    return f"c{place % PLACES}"
