"""The charts of the page: learning curves, and quality against parameters and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slm_lab.report.axes import bytes_label, short_label
from slm_lab.report.charts import BOTTOM, TOP, Frame, Line, Point, line_chart, scatter_chart
from slm_lab.report.label_placement import SEPARATOR, Name
from slm_lab.results.budgets import BudgetAxis
from slm_lab.results.comparison import Comparison
from slm_lab.results.metrics import METRIC_BY_KEY
from slm_lab.results.mode_results import ModeResults

AXIS_LABELS: dict[BudgetAxis, str] = {
    "steps": "optimizer steps",
    "tokens": "predicted tokens",
    "seconds": "seconds of training",
}
QUALITY = "held-out bits per byte"
QUALITY_LABEL = f"{QUALITY} (lower is better)"
# The line chart is as wide as the page; with this height it does not fill the whole screen.
LINE_CHART_HEIGHT = 270
HEIGHT_OF_A_NAME = 28  # two lines: with many modes the chart is higher


@dataclass(frozen=True)
class PageChart:
    """A chart as SVG, with its caption. A ``wide`` one has the width of the page, on wide screens and on paper."""

    title: str
    svg: str
    wide: bool


def make_charts(comparison: Comparison) -> Iterator[PageChart]:
    """Make the charts for which the runs have values."""
    lines = [*_curves(comparison)]
    if lines:
        yield _learning_curves(comparison, lines)
    for key, name, better in (
        ("trainable", "trainable parameters", "fewer are better"),
        ("peak", "peak memory", "less is better"),
    ):
        points = [*_points(comparison.modes, key, name)]
        if points:
            yield _quality_against(key, name, better, points)


def _learning_curves(comparison: Comparison, lines: Sequence[Line]) -> PageChart:
    axis = AXIS_LABELS[comparison.axis]
    ends = "; ".join(
        f"{line.name.text} {line.name.detail}: from {line.points[0][1]:.4f} to {line.points[-1][1]:.4f}"
        for line in lines
    )
    description = f"{QUALITY} against {axis}. {ends}."
    height = max(LINE_CHART_HEIGHT, HEIGHT_OF_A_NAME * len({line.color for line in lines}) + TOP + BOTTOM)
    frame = Frame("Learning curves", description, axis, QUALITY_LABEL, "curves", height)
    return PageChart(frame.title, line_chart(frame, lines), wide=True)


def _quality_against(key: str, name: str, better: str, points: Sequence[Point]) -> PageChart:
    values = "; ".join(point.description for point in points)
    description = f"{QUALITY} after training. {values}."
    frame = Frame(f"Quality against {name}", description, f"{name} ({better})", QUALITY_LABEL, f"by-{key}")
    is_count = key == "trainable"
    x_text = short_label if is_count else bytes_label
    return PageChart(frame.title, scatter_chart(frame, points, log=is_count, x_text=x_text), wide=False)


def _curves(comparison: Comparison) -> Iterator[Line]:
    for color, mode in enumerate(comparison.modes):
        for result in mode.results:
            positions = [(comparison.axis_value(point), point.bits_per_byte) for point in result.curve]
            points = tuple((x, bits) for x, bits in positions if x is not None)
            if len(points) > 1:
                yield Line(_chart_name(mode), color, points)


def _points(modes: Sequence[ModeResults], key: str, name: str) -> Iterator[Point]:
    text = METRIC_BY_KEY[key].format
    for color, mode in enumerate(modes):
        x, bits = mode.median(key), mode.spreads.get("bits_after")
        if x and bits:
            description = f"{mode.label_with_parameters}: {text(x)} {name}, {bits.median:.4f} bits per byte"
            yield Point(_chart_name(mode), color, x, bits.median, bits.minimum, bits.maximum, description)


def _chart_name(mode: ModeResults) -> Name:
    """Return the name of a mode in charts: its options and the number of trained parameters are in the second line."""
    name, _, options = mode.label.partition(" ")
    count = mode.median("trainable")
    parts = [options, short_label(count) if count else ""]
    return Name(name, SEPARATOR.join(part for part in parts if part))
