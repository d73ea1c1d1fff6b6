"""Charts as inline SVG. Colours come from the page's style sheet; lines and points are labelled directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from slm_lab.report.axes import Scale, decimal_labels, fit_scale, scale_from_zero, short_label
from slm_lab.report.label_placement import LINE_HEIGHT, Marker, place_names, shorten, spread_out

# Units of the view box. RIGHT leaves space for the names of lines.
WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 140, 14, 44
COLORS = 6  # classes c0 to c5 of style.css


@dataclass(frozen=True)
class Line:
    """A line through ``points``, from left to right. Lines of the same ``color`` share one name."""

    name: str
    color: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Point:
    """A point with an error bar from ``low`` to ``high``; ``description`` is its tooltip."""

    name: str
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
    x = scale_from_zero([x for x, _ in points], LEFT, WIDTH - RIGHT)
    y = fit_scale([y for _, y in points], frame.bottom, TOP)
    paths = (_line(line, x, y) for line in lines)
    return _svg(frame, [*_axes(frame, x, y, short_label), *paths, *_line_names(frame, lines, x, y)])


def scatter_chart(frame: Frame, points: Sequence[Point], *, log: bool, x_text: Callable[[float], str]) -> str:
    """Draw named points with their error bars.

    Args:
        log: Whether the x axis is logarithmic.
        x_text: Formats the ticks of the x axis.
    """
    # Wider margins than usual: names are placed next to the outermost points.
    x = fit_scale([point.x for point in points], LEFT, WIDTH - 14, log=log, margin=0.18)
    y = fit_scale([value for point in points for value in (point.low, point.high)], frame.bottom, TOP, margin=0.14)
    dots = (_point(point, x, y) for point in points)
    return _svg(frame, [*_axes(frame, x, y, x_text), *dots, *_point_names(frame, points, x, y)])


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    title, description = f"{frame.id}-title", f"{frame.id}-description"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {frame.height}" role="img" aria-labelledby="{title} {description}">'
        f'<title id="{title}">{escape(frame.title)}</title>'
        f'<desc id="{description}">{escape(frame.description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _axes(frame: Frame, x: Scale, y: Scale, x_text: Callable[[float], str]) -> Iterator[str]:
    bottom, y_text = frame.bottom, decimal_labels(y.ticks)
    for tick in y.ticks:
        yield f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{x.end:.1f}"/>'
        yield _text(LEFT - 8, y(tick) + 4, y_text(tick), "tick end")
    for tick in x.ticks:
        yield f'<path class="mark" d="M{x(tick):.1f} {bottom}v4"/>'
        yield _text(x(tick), bottom + 18, x_text(tick), "tick middle")
    yield f'<path class="axis" d="M{LEFT} {bottom}H{x.end:.1f}"/>'
    yield _text((LEFT + x.end) / 2, frame.height - 6, frame.x_label, "label middle")
    upright = f"translate(12 {(TOP + bottom) / 2}) rotate(-90)"
    yield f'<g transform="{upright}">{_text(0, 0, frame.y_label, "label middle")}</g>'


def _line(line: Line, x: Scale, y: Scale) -> str:
    path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
    dots = "".join(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.2"/>' for a, b in line.points)
    return f'<g class="{_color(line.color)}"><path class="line" d="M{path}"/>{dots}</g>'


def _line_names(frame: Frame, lines: Sequence[Line], x: Scale, y: Scale) -> Iterator[str]:
    """Yield one name for each colour, next to the mean end of its lines, with a leader line if it had to move."""
    names = {line.color: line.name for line in lines}
    ends = {color: [y(line.points[-1][1]) for line in lines if line.color == color] for color in names}
    mean_ends = [sum(values) / len(values) for values in ends.values()]
    positions = spread_out(mean_ends, LINE_HEIGHT, TOP + 4, frame.bottom)
    for (color, name), end, position in zip(names.items(), mean_ends, positions, strict=True):
        start = x.end + 4
        yield f'<path class="{_color(color)} lead" d="M{start:.1f} {end:.1f}L{start + 9:.1f} {position:.1f}"/>'
        yield _text(start + 12, position + 4, shorten(name, WIDTH - start - 14), f"{_color(color)} name")


def _point(point: Point, x: Scale, y: Scale) -> str:
    center = f"{x(point.x):.1f}"
    bar = f'<path class="bar" d="M{center} {y(point.low):.1f}V{y(point.high):.1f}"/>' if point.high > point.low else ""
    dot = f'<circle class="dot" cx="{center}" cy="{y(point.y):.1f}" r="5"/>'
    return f'<g class="{_color(point.color)}"><title>{escape(point.description)}</title>{bar}{dot}</g>'


def _point_names(frame: Frame, points: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    names = [shorten(point.name, 150) for point in points]
    markers = [Marker(x(point.x), y(point.y), y(point.high), y(point.low)) for point in points]
    boxes = place_names(markers, names, (LEFT, 0, WIDTH, frame.bottom))
    for point, name, (left, _, _, bottom) in zip(points, names, boxes, strict=True):
        yield _text(left, bottom - 4, name, f"{_color(point.color)} name")


def _text(x: float, y: float, text: str, css_class: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css_class}">{escape(text)}</text>'


def _color(index: int) -> str:
    return f"c{index % COLORS}"
