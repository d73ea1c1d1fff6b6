"""compare.html: the page of a comparison, a single file without scripts or network access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from importlib import resources
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slm_lab.report.page_charts import make_charts
from slm_lab.report.page_evaluations import list_evaluations
from slm_lab.report.page_facts import list_commands, list_facts, list_machines
from slm_lab.report.page_texts import group_by_prompt, list_strips
from slm_lab.results.advice import advise
from slm_lab.results.comparison import Comparison
from slm_lab.results.metrics import METRIC_BY_KEY, METRICS, Metric
from slm_lab.results.mode_results import ModeResults, best_modes


def render_template(name: str, **values: Any) -> str:
    """Render a template of this package with the style of all pages and the date. Values are escaped."""
    environment = Environment(
        loader=PackageLoader("slm_lab", "report/template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("slm_lab").joinpath("report", "template", "style.css").read_text(encoding="utf-8")
    template = environment.get_template(name)
    return template.render(style=Markup(style), created=date.today().isoformat(), **values)


def render_page(comparison: Comparison) -> str:
    """Render the page as HTML. Texts from run folders (names, prompts, samples) are escaped."""
    modes = comparison.modes
    charts = [{"title": chart.title, "svg": Markup(chart.svg), "wide": chart.wide} for chart in make_charts(comparison)]
    return render_template(
        "page.html",
        comparison=comparison,
        modes=modes,
        facts=[*list_facts(comparison)],
        advice=advise(modes),
        groups=[(name, [*rows]) for name, rows in groupby(_table_rows(modes), key=lambda row: row["group"])],
        evaluations=list_evaluations(modes),
        charts=charts,
        legend=[*_legend(modes)],
        varying=", ".join(metric.label for metric in METRICS if metric.varies and metric.better),
        samples=group_by_prompt(modes),
        strips=[*list_strips(modes)],
        machines=[*list_machines(comparison)],
        commands=[*list_commands(modes)],
    )


def _table_rows(modes: Sequence[ModeResults]) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        best = best_modes(modes, metric)
        cells = [_cell(mode, metric) | {"best": mode.name in best} for mode in modes]
        if any(cell["text"] for cell in cells):
            yield {"group": metric.group, "label": metric.label, "cells": cells}


def _cell(mode: ModeResults, metric: Metric) -> dict[str, Any]:
    median = mode.median(metric.key)
    text = "" if median is None else metric.format(median)
    return {"text": text, "range": mode.range_text(metric, " to ")}


def _legend(modes: Sequence[ModeResults]) -> Iterator[dict[str, str]]:
    """Yield what the legend says of each mode: its parameters, and how its quality changed."""
    bits = METRIC_BY_KEY["bits_after"].format
    for mode in modes:
        count = mode.median("trainable")
        change = f"{abs(mode.improvement):.4f} {'less' if mode.improvement >= 0 else 'more'} than the base"
        yield {
            "label": mode.label,
            "parameters": "" if count is None else f"{METRIC_BY_KEY['trainable'].format(count)} parameters",
            "quality": f"{bits(mode.spreads['bits_after'].median)} bits per byte, {change}",
        }
