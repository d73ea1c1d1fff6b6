"""The plot of ``slm-bench serve``: throughput and time to the first token, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from slm_bench.output import heading
from slm_bench.plots import INK, ON, OTHERS, save
from slm_bench.serve.report import Found


def plot_serve(found: Found, path: Path) -> list[Path]:
    """A bar for each server in both panels. The files written."""
    names = [speed.server for speed in found.speeds]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 1.3 + 0.42 * len(names)), sharey=True, layout="constrained"
    )
    speeds = [speed.tokens_per_second for speed in found.speeds]
    labels = [f"{speeds[0]:,.0f}"]
    labels += [
        f"{speed:,.0f}  (slm-serve {one.ratio[0]:.2f}x)"
        for speed, one in zip(speeds[1:], found.speeds[1:], strict=True)
    ]
    _bars(left, names, speeds, labels, "output tokens per second")
    firsts = [speed.first(50) * 1000 for speed in found.speeds]
    labels = [
        f"{first:,.0f}  (p99 {speed.first(99) * 1000:,.0f})" for first, speed in zip(firsts, found.speeds, strict=True)
    ]
    _bars(right, names, firsts, labels, "milliseconds to the first token, median")
    left.invert_yaxis()
    setting = found.setting
    figure.suptitle(
        f"{heading(setting)}, {setting['concurrency']} requests at once, "
        f"{setting['prompt_tokens']} tokens in, {setting['new_tokens']} out",
        fontsize=10,
        color=INK,
    )
    return save(figure, path)


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], labels: Sequence[str], title: str) -> None:
    drawn = axes.barh(names, values, color=[ON] + [OTHERS] * (len(names) - 1), height=0.75)
    axes.bar_label(drawn, labels, padding=4, fontsize=8, color=INK)
    axes.set_xlim(0, max(values) * 1.6)  # room for the label of the longest
    axes.set_xticks([])
    axes.set_title(title, fontsize=9, fontweight="bold", color=INK, loc="left")
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
