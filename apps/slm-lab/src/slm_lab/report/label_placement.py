"""Placing names in charts without covering points or other names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]  # left, top, right, bottom

LINE_HEIGHT, LETTER_WIDTH = 15.0, 7.8  # of a name, in units of the chart; letters are measured generously
DETAIL_HEIGHT, DETAIL_LETTER_WIDTH = 12.0, 6.4  # of the smaller line below it
SEPARATOR = " · "  # of the parts of that line
POINT_RADIUS = 6.0
OUTSIDE_PENALTY = 4  # a name that is cut off at the edge is worse than one that covers something


@dataclass(frozen=True)
class Marker:
    """A point in the chart, with the ends of its error bar."""

    x: float
    y: float
    top: float
    bottom: float

    @property
    def box(self) -> Box:
        radius = POINT_RADIUS
        return self.x - radius, self.top - radius, self.x + radius, self.bottom + radius


def spread_out(preferred: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart so that neighbours are at least ``gap`` apart, in the order of ``preferred``.

    The results lie between ``low`` and ``high`` if there is space for all; otherwise the first ones are below ``low``.
    """
    order = sorted(range(len(preferred)), key=lambda index: preferred[index])
    positions: dict[int, float] = {}
    # Increase positions from ``low`` on, then decrease from ``high`` on those that are beyond it.
    edge = -math.inf
    for index in order:
        positions[index] = edge = max(preferred[index], edge + gap, low)
    edge = high + gap
    for index in reversed(order):
        positions[index] = edge = min(positions[index], edge - gap)
    return [positions[index] for index in range(len(preferred))]


@dataclass(frozen=True)
class Name:
    """A name with a smaller line below it, which may be empty."""

    text: str
    detail: str = ""

    @property
    def width(self) -> float:
        return max(LETTER_WIDTH * len(self.text), DETAIL_LETTER_WIDTH * len(self.detail))

    @property
    def height(self) -> float:
        return LINE_HEIGHT + (DETAIL_HEIGHT if self.detail else 0)

    def shorten(self, width: float) -> Name:
        """Return the name with both lines shortened to ``width``; what follows the last separator is kept."""
        text, separator, end = self.detail.rpartition(SEPARATOR)
        letters = width * LETTER_WIDTH / DETAIL_LETTER_WIDTH
        start = shorten(text, letters - LETTER_WIDTH * len(separator + end)) if text else ""
        return Name(shorten(self.text, width), f"{start}{separator}{end}" if text else shorten(end, letters))


def place_names(markers: Sequence[Marker], names: Sequence[Name], chart: Box) -> list[Box]:
    """Choose a box for each name, next to its marker, where it overlaps markers and earlier names least.

    Args:
        markers: The points that are named.
        names: Their names, already short enough for the chart.
        chart: The area that names should stay in.
    """
    occupied = [marker.box for marker in markers]
    boxes = []
    for marker, name in zip(markers, names, strict=True):
        candidates = _candidates(marker, name.width, name.height)
        box = min(candidates, key=lambda box: _cost(box, occupied, chart))
        occupied.append(box)
        boxes.append(box)
    return boxes


def _candidates(marker: Marker, width: float, height: float) -> Iterator[Box]:
    """Yield boxes to the right, to the left, above, below, and farther away, in order of preference."""
    x, y, half, distance = marker.x, marker.y, height / 2, POINT_RADIUS + 3
    yield x + distance, y - half, x + distance + width, y + half
    yield x - distance - width, y - half, x - distance, y + half
    above, below = marker.top - POINT_RADIUS - 2, marker.bottom + POINT_RADIUS + 2
    for start in (x - width / 2, x - 4, x + 4 - width):
        yield start, above - height, start + width, above
        yield start, below, start + width, below + height
    # Farther away, where there is space for a leader line.
    for shift in (1, -1, 2, -2, 3, -3):
        top = y - half + shift * (height + 2)
        yield x + 2 * distance, top, x + 2 * distance + width, top + height
        yield x - 2 * distance - width, top, x - 2 * distance, top + height


def leader_line(marker: Marker, box: Box) -> tuple[float, float, float, float] | None:
    """Return the ends of a line from the marker to a name that is not next to it; None if it is."""
    left, top, right, bottom = box
    x, y = min(max(marker.x, left), right), min(max(marker.y, top), bottom)
    is_near = math.hypot(x - marker.x, y - marker.y) <= POINT_RADIUS + 4 or left <= marker.x <= right
    return None if is_near else (marker.x, marker.y, x, (top + bottom) / 2)


def _cost(box: Box, occupied: Sequence[Box], chart: Box) -> float:
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap_area(box, chart)
    return OUTSIDE_PENALTY * outside + sum(_overlap_area(box, other) for other in occupied)


def _overlap_area(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def shorten(name: str, width: float) -> str:
    """Shorten ``name`` to ``width`` with an ellipsis, but to no fewer than four characters."""
    letters = max(4, math.floor(width / LETTER_WIDTH))
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
