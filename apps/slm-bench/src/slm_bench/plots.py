"""Plots as PNG and SVG: the one door to matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.layout_engine import ConstrainedLayoutEngine

from slm_bench.comparison import Comparison
from slm_bench.envelope import Envelope
from slm_bench.output import heading

if TYPE_CHECKING:
    from slm_bench.engine.report import Answered, Found
    from slm_bench.kv import Measured

INK, ON, OFF, OTHERS = "#222222", "#1f6f8b", "#c8553d", "#b8bfc6"


def plot_lengths(setting: dict[str, Any], found: Sequence[Measured], path: Path) -> list[Path]:
    """Tokens a second against new tokens, with the cache and without. The files written."""
    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    lengths = [one.new_tokens for one in found]
    lines = [
        ("cache on", ON, [one.tokens_per_second_on for one in found]),
        ("cache off", OFF, [one.tokens_per_second_off for one in found]),
    ]
    for label, colour, values in lines:
        axes.plot(lengths, values, marker="o", color=colour)
        axes.annotate(label, (lengths[-1], values[-1]), (6, 0), "data", "offset points", color=colour, va="center")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.set_xlim(lengths[0] / 1.1, lengths[-1] * 1.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("new tokens")
    axes.set_ylabel("tokens per second")
    axes.set_title(
        f"{setting['model']}, {setting['dtype']} on {setting['device']}, threads: {setting['threads']}, "
        f"batch of {setting['batch_size']}",
        fontsize=10,
        color=INK,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return save(figure, path)


def plot_engine(found: Found, path: Path) -> list[Path]:
    """Useful tokens a second of each way, a panel for each workload. The files written."""
    bars = [len(work.ways) for work in found.workloads]
    figure, panels = pyplot.subplots(
        len(bars),
        figsize=(8, 0.9 + sum(0.3 * count + 0.45 for count in bars)),
        height_ratios=bars,
        layout=ConstrainedLayoutEngine(hspace=0.12, h_pad=0.08),
    )
    for axes, work in zip(panels, found.workloads, strict=True):
        _bars(axes, work)
    panels[-1].set_xlabel("useful tokens per second, and how many times as fast the engine is", fontsize=9, color=INK)
    figure.suptitle(heading(found.setting), fontsize=10, color=INK)
    return save(figure, path)


def _bars(axes: Any, work: Answered) -> None:
    speeds = [way.tokens_per_second for way in work.ways]
    labels = [f"{speed:,.0f}  (engine {way.ratio[0]:.2f}x)" for speed, way in zip(speeds, work.ways, strict=True)]
    labels[0] = f"{speeds[0]:,.0f}"
    drawn = axes.barh([way.way for way in work.ways], speeds, color=[ON] + [OTHERS] * (len(speeds) - 1), height=0.75)
    axes.bar_label(drawn, labels, padding=4, fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, max(speeds) * 1.32)  # room for the label of the longest
    axes.set_xticks([])
    axes.set_title(f"{work.name}: {work.description}", fontsize=9, fontweight="bold", color=INK, loc="left")
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
    axes.get_yticklabels()[0].set(color=ON, fontweight="bold")
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def plot_comparisons(envelope: Envelope, path: Path) -> list[Path]:
    """The first ratio of each way with its spread, a panel for each comparison that has any. The files written."""
    shown = [one for one in envelope.comparisons if one.ratio_names]
    rows = [len(one.rows) for one in shown]
    figure, panels = pyplot.subplots(
        len(shown),
        figsize=(8, 0.6 + sum(0.28 * count + 0.75 for count in rows)),
        height_ratios=[count + 1 for count in rows],
        squeeze=False,
        layout=ConstrainedLayoutEngine(hspace=0.08, h_pad=0.08),
    )
    for axes, one in zip(panels[:, 0], shown, strict=True):
        _ranges(axes, one)
    setting = envelope.settings
    figure.suptitle(f"slm-bench {envelope.benchmark}: {setting['model']} on {envelope.machine['cpu']}", fontsize=10)
    return save(figure, path)


def _ranges(axes: Any, comparison: Comparison) -> None:
    """A dot at the median, a line from least to most; 1 is where a way is level with its reference."""
    name = comparison.ratio_names[0]
    axes.axvline(1, color=OTHERS, linewidth=1, zorder=0)
    for at, row in enumerate(comparison.rows):
        if name in row.ratios:
            median, least, most = row.ratios[name]
            axes.plot([least, most], [at, at], color=ON, linewidth=2, alpha=0.5, solid_capstyle="round")
            axes.plot([median], [at], marker="o", markersize=5, color=ON)
            axes.annotate(f"{median:.2f}x", (most, at), (7, 0), "data", "offset points", fontsize=8, va="center")
    axes.set_yticks(range(len(comparison.rows)), [row.name for row in comparison.rows])
    axes.set_ylim(len(comparison.rows) - 0.5, -0.5)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    edges = [edge for row in comparison.rows if name in row.ratios for edge in row.ratios[name]]
    axes.set_xlim(min(0.5, *edges) / 1.1, max(2.0, *edges) * 1.35)  # room for the number of the longest
    axes.set_xlabel(name, fontsize=8, color=INK, loc="left")
    axes.set_title(comparison.title, fontsize=9, fontweight="bold", color=INK, loc="left")
    axes.tick_params(axis="both", length=0, labelsize=8, labelcolor=INK)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def save(figure: Any, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}{ending}") for ending in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return files
