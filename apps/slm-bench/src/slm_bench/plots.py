"""Plots as PNG and SVG: the one door to matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from slm_bench.kv import Measured

INK, ON, OFF = "#222222", "#1f6f8b", "#c8553d"


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
    return _save(figure, path)


def _save(figure: Any, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}{ending}") for ending in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return files
