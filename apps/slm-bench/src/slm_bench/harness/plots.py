"""Plots as PNG and SVG. The only module that imports matplotlib."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot is imported: most machines that run benchmarks have no display
from matplotlib import pyplot
from matplotlib.layout_engine import ConstrainedLayoutEngine

from slm_bench.harness.comparison import Comparison, format_figure
from slm_bench.harness.result_file import ResultFile

INK, ACCENT, FAINT = "#222222", "#1f6f8b", "#b8bfc6"
FIGURES = 2  # columns of bars: the first numeric figures of a comparison
ENDINGS = (".png", ".svg")


def plot_comparisons(result: ResultFile, path: Path) -> list[Path]:
    """Plot each comparison with ratios as a row of panels: its first ratio with the spread, and two figures as bars.

    Returns:
        The files written; none if there is no ratio.
    """
    shown = [comparison for comparison in result.results.comparisons if comparison.ratio_names]
    if not shown:
        return []
    rows = [len(comparison.rows) for comparison in shown]
    figure, panels = pyplot.subplots(
        len(shown),
        1 + FIGURES,
        figsize=(12, 0.6 + sum(0.28 * count + 0.8 for count in rows)),
        width_ratios=[2] + [1] * FIGURES,
        height_ratios=[count + 1 for count in rows],
        squeeze=False,
        layout=ConstrainedLayoutEngine(hspace=0.08, h_pad=0.08),
    )
    for (ratio_panel, *bar_panels), comparison in zip(panels, shown, strict=True):
        _draw_ratios(ratio_panel, comparison)
        for axes, name in zip_longest(bar_panels, _numeric_figures(comparison)[:FIGURES]):
            _draw_bars(axes, comparison, name)
    title = f"slm-bench {result.benchmark}: {result.settings['model']} on {result.machine['cpu']}"
    figure.suptitle(title, fontsize=10, color=INK)
    return _save(figure, path)


def _numeric_figures(comparison: Comparison) -> list[str]:
    values = {name: [row.figures.get(name) for row in comparison.rows] for name in comparison.figure_names}
    return [name for name in values if not any(isinstance(value, str) for value in values[name])]


def _draw_ratios(axes: Any, comparison: Comparison) -> None:
    """Draw a dot at each median and a line from minimum to maximum; 1 means level with the reference."""
    name, rows = comparison.ratio_names[0], comparison.rows
    axes.axvline(1, color=FAINT, linewidth=1, zorder=0)
    for position, row in enumerate(rows):
        if name in row.ratios:
            median, low, high = row.ratios[name]
            axes.plot([low, high], [position] * 2, color=ACCENT, linewidth=2, alpha=0.5, solid_capstyle="round")
            axes.plot([median], [position], marker="o", markersize=5, color=ACCENT)
            axes.annotate(f"{median:.2f}x", (high, position), (7, 0), "data", "offset points", fontsize=8, va="center")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    # A logarithmic axis: half and double are equally far from 1.
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    edges = [edge for row in rows if name in row.ratios for edge in row.ratios[name]]
    axes.set_xlim(min(0.5, *edges) / 1.1, max(2.0, *edges) * 1.35)  # leaves space for the label of the longest line
    axes.grid(axis="x", alpha=0.25)
    axes.set_title(comparison.title, fontsize=9, fontweight="bold", color=INK, loc="left")
    _finish(axes, name, len(rows))


def _draw_bars(axes: Any, comparison: Comparison, name: str | None) -> None:
    """Draw the figure ``name`` of each row; None leaves the panel empty."""
    if name is None:
        axes.axis("off")
        return
    values = [float(row.figures.get(name, 0)) for row in comparison.rows]
    labels = [format_figure(row.figures[name]) if name in row.figures else "" for row in comparison.rows]
    bars = axes.barh(range(len(values)), values, color=FAINT, height=0.6)
    axes.bar_label(bars, labels, padding=4, fontsize=8, color=INK)
    axes.set_xlim(0, (max(values) or 1) * 1.4)  # leaves space for the label of the longest bar
    axes.set_xticks([])
    axes.set_yticks([])
    _finish(axes, name, len(values))


def _finish(axes: Any, label: str, rows: int) -> None:
    """Label a panel of ``rows`` lines, the first at the top, and remove its frame."""
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlabel(label, fontsize=8, color=INK, loc="left")
    axes.tick_params(axis="both", length=0, labelsize=8, labelcolor=INK)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _save(figure: Any, path: Path) -> list[Path]:
    """Write ``path`` as PNG and SVG; an ending of ``path`` that names one of these formats is replaced."""
    stem = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}{ending}") for ending in ENDINGS]
    for file in files:
        figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return files
