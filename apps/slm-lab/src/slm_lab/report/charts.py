"""Charts as inline SVG. Colours come from the page's style sheet; lines and points are labelled directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from slm_lab.report.axes import Scale, decimal_labels, fit_scale, scale_from_zero, short_label
from slm_lab.report.label_placement import LINE_HEIGHT, Marker, Name, leader_line, place_names, spread_out

# Units of the view box. The space at the top has the label of the y axis.
WIDTH, HEIGHT = 420, 300
TOP, BOTTOM = 34, 44
TICK_LETTER_WIDTH = 7.4  # measured generously
MAX_NAME_WIDTH = 170.0
COLORS = 6  # classes c0 to c5 of style.css


@dataclass(frozen=True)
class Line:
    """A line through ``points``, from left to right. Lines of the same ``color`` share one name."""

    name: Name
    color: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Point:
    """A point with an error bar from ``low`` to ``high``; ``description`` is its tooltip."""

    name: Name
    color: int
    x: float
    y: float
    low: float
    high: float
    description: str


@dataclass(frozen=True)
class Frame:
    """Title, description for screen readers, axis labels, and an id that is unique on the page."""

    title: str
    description: str
    x_label: str
    y_label: str
    id: str
    height: int = HEIGHT

    @property
    def bottom(self) -> int:
        """The y position of the x axis."""
        return self.height - BOTTOM


def line_chart(frame: Frame, lines: Sequence[Line]) -> str:
    """Draw lines over an x axis that starts at 0, each named at its right end."""
    points = [point for line in lines for point in line.points]
    y = fit_scale([y for _, y in points], frame.bottom, TOP)
    space_for_names = min(MAX_NAME_WIDTH, max(line.name.width for line in lines)) + 16
    x = scale_from_zero([x for x, _ in points], _left_margin(y), WIDTH - space_for_names)
    paths = (_line(line, x, y) for line in lines)
    return _svg(frame, [*_axes(frame, x, y, short_label), *paths, *_line_names(frame, lines, x, y)])


def scatter_chart(frame: Frame, points: Sequence[Point], *, log: bool, x_text: Callable[[float], str]) -> str:
    """Draw named points with their error bars.

    Args:
        log: Whether the x axis is logarithmic.
        x_text: Formats the ticks of the x axis.
    """
    # Wider margins than usual: names are placed next to the outermost points.
    y = fit_scale([value for point in points for value in (point.low, point.high)], frame.bottom, TOP, margin=0.14)
    x = fit_scale([point.x for point in points], _left_margin(y), WIDTH - 14, log=log, margin=0.18)
    dots = (_point(point, x, y) for point in points)
    return _svg(frame, [*_axes(frame, x, y, x_text), *dots, *_point_names(frame, points, x, y)])


def _left_margin(y: Scale) -> float:
    """Return the space that the tick labels of the y axis need."""
    y_text = decimal_labels(y.ticks)
    return 14 + TICK_LETTER_WIDTH * max(len(y_text(tick)) for tick in y.ticks)


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    title, description = f"{frame.id}-title", f"{frame.id}-description"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {frame.height}" role="img" aria-labelledby="{title} {description}">'
        f'<title id="{title}">{escape(frame.title)}</title>'
        f'<desc id="{description}">{escape(frame.description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _axes(frame: Frame, x: Scale, y: Scale, x_text: Callable[[float], str]) -> Iterator[str]:
    left, bottom, y_text = x.start, frame.bottom, decimal_labels(y.ticks)
    # Above the axis rather than upright beside it, where it would need space from the tick labels.
    yield _text(2, 14, frame.y_label, "label")
    for tick in y.ticks:
        yield f'<path class="grid" d="M{left:.1f} {y(tick):.1f}H{x.end:.1f}"/>'
        yield _text(left - 8, y(tick) + 4, y_text(tick), "tick end")
    for tick in x.ticks:
        yield f'<path class="mark" d="M{x(tick):.1f} {bottom}v4"/>'
        yield _text(x(tick), bottom + 18, x_text(tick), "tick middle")
    yield f'<path class="axis" d="M{left:.1f} {bottom}H{x.end:.1f}"/>'
    yield _text((left + x.end) / 2, frame.height - 6, frame.x_label, "label middle")


def _line(line: Line, x: Scale, y: Scale) -> str:
    path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
    dots = "".join(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.2"/>' for a, b in line.points)
    return f'<g class="{_color(line.color)}"><path class="line" d="M{path}"/>{dots}</g>'


def _line_names(frame: Frame, lines: Sequence[Line], x: Scale, y: Scale) -> Iterator[str]:
    """Yield one name for each colour, next to the mean end of its lines, with a leader line if it had to move."""
    names = {line.color: line.name.shorten(WIDTH - x.end - 16) for line in lines}
    ends = {color: [y(line.points[-1][1]) for line in lines if line.color == color] for color in names}
    mean_ends = [sum(values) / len(values) for values in ends.values()]
    gap = max(name.height for name in names.values()) + 1
    positions = spread_out(mean_ends, gap, TOP - 8, frame.bottom)
    for (color, name), end, position in zip(names.items(), mean_ends, positions, strict=True):
        start = x.end + 4
        yield f'<path class="{_color(color)} lead" d="M{start:.1f} {end:.1f}L{start + 9:.1f} {position:.1f}"/>'
        yield from _name(name, start + 12, position - name.height / 2, color)


def _name(name: Name, left: float, top: float, color: int) -> Iterator[str]:
    yield _text(left, top + LINE_HEIGHT - 4, name.text, f"{_color(color)} name")
    if name.detail:
        yield _text(left, top + name.height - 4, name.detail, f"{_color(color)} detail")


def _point(point: Point, x: Scale, y: Scale) -> str:
    center = f"{x(point.x):.1f}"
    bar = f'<path class="bar" d="M{center} {y(point.low):.1f}V{y(point.high):.1f}"/>' if point.high > point.low else ""
    dot = f'<circle class="dot" cx="{center}" cy="{y(point.y):.1f}" r="5"/>'
    return f'<g class="{_color(point.color)}"><title>{escape(point.description)}</title>{bar}{dot}</g>'


def _point_names(frame: Frame, points: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    names = [point.name.shorten(MAX_NAME_WIDTH) for point in points]
    markers = [Marker(x(point.x), y(point.y), y(point.high), y(point.low)) for point in points]
    boxes = place_names(markers, names, (x.start, TOP - 14, WIDTH, frame.bottom))
    for point, marker, name, box in zip(points, markers, names, boxes, strict=True):
        if line := leader_line(marker, box):
            start_x, start_y, end_x, end_y = line
            path = f"M{start_x:.1f} {start_y:.1f}L{end_x:.1f} {end_y:.1f}"
            yield f'<path class="{_color(point.color)} lead" d="{path}"/>'
        yield from _name(name, box[0], box[1], point.color)


def _text(x: float, y: float, text: str, css_class: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css_class}">{escape(text)}</text>'


def _color(index: int) -> str:
    return f"c{index % COLORS}"
