"""The page of a comparison: one file that needs nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import date
from importlib import resources
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slm_lab.advice import advise
from slm_lab.axes import short
from slm_lab.charts import Frame, Line, Point, curves, scatter
from slm_lab.comparison import Axis, Comparison
from slm_lab.figures import ROWS, SPREAD, Mode, Row, best, size
from slm_lab.runs import command_of

AXES: dict[Axis, str] = {"steps": "optimizer steps", "tokens": "predicted tokens", "seconds": "seconds of training"}
BITS = "held-out bits per byte"


def page(comparison: Comparison) -> str:
    """As HTML. Whatever came from outside (names, prompts, texts) is escaped."""
    environment = Environment(
        loader=PackageLoader("slm_lab", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("slm_lab").joinpath("page", "style.css").read_text(encoding="utf-8")
    modes = comparison.modes
    return environment.get_template("page.html").render(
        style=Markup(style),
        comparison=comparison,
        modes=modes,
        facts=list(_facts(comparison)),
        advice=advise(modes),
        groups=[(name, list(rows)) for name, rows in groupby(_table(modes), key=lambda row: row["group"])],
        charts=[*_charts(comparison)],
        texts=list(_texts(modes)),
        machines=list(_machines(comparison)),
        commands=list(_commands(modes)),
        made=date.today().isoformat(),
    )


def _facts(comparison: Comparison) -> Iterator[str]:
    """What was done to what on what, where it is the same for all."""
    runs = comparison.runs
    yield from _same(run.base and f"base {run.base}" for run in runs)
    yield from _same(run.dataset and f"trained on {run.dataset}" for run in runs)
    yield from [f"{comparison.budget} each"] if comparison.budget else []
    yield "1 seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    yield from _same(_device(run) for run in runs)


def _same(values: Any) -> list[str]:
    known = set(values)
    return [*known] if len(known) == 1 and "" not in known else []


def _device(run: Any) -> str:
    threads = f", {run.threads} {'thread' if run.threads == 1 else 'threads'}" if run.device == "CPU" else ""
    return f"{run.device}{threads}"


def _table(modes: Sequence[Mode]) -> Iterator[dict[str, Any]]:
    for row in ROWS:
        leading = best(modes, row)
        cells = [_cell(mode, row) | {"best": mode.name in leading} for mode in modes]
        if any(cell["text"] for cell in cells):
            yield {"group": row.group, "label": row.label, "cells": cells}


def _cell(mode: Mode, row: Row) -> dict[str, Any]:
    spread = mode.values.get(row.key)
    if spread is None:
        return {"text": "", "range": ""}
    low, high = row.text(spread.least), row.text(spread.most)
    varies = row.key in SPREAD and low != high
    return {"text": row.text(spread.median), "range": f"{low} to {high}" if varies else ""}


def _charts(comparison: Comparison) -> Iterator[dict[str, Any]]:
    lines = [*_lines(comparison)]
    if lines:
        axis = AXES[comparison.axis]
        says = "; ".join(f"{line.name}: from {line.points[0][1]:.4f} to {line.points[-1][1]:.4f}" for line in lines)
        frame = Frame("Learning curves", f"{BITS} against {axis}. {says}.", axis, BITS, "curves")
        yield {"title": frame.title, "svg": Markup(curves(frame, lines)), "wide": True}
    for key, name, log in (("trainable", "trainable parameters", True), ("peak", "peak memory", False)):
        points = [*_points(comparison.modes, key, name)]
        if points:
            says = "; ".join(point.says for point in points)
            frame = Frame(f"Quality against {name}", f"{BITS} after training. {says}.", name, BITS, f"by-{key}")
            svg = scatter(frame, points, log=log, text=short if log else _whole)
            yield {"title": frame.title, "svg": Markup(svg), "wide": False}


def _whole(value: float) -> str:
    """Bytes, without decimals that say nothing."""
    return size(value).replace(".00 ", " ").replace(".0 ", " ")


def _lines(comparison: Comparison) -> Iterator[Line]:
    for place, mode in enumerate(comparison.modes):
        for outcome in mode.outcomes:
            moments = [(comparison.at(moment), moment.bits_per_byte) for moment in outcome.curve]
            points = tuple((at, bits) for at, bits in moments if at is not None)
            if len(points) > 1:
                yield Line(mode.name, place, points)


def _points(modes: Sequence[Mode], key: str, name: str) -> Iterator[Point]:
    text = next(row.text for row in ROWS if row.key == key)
    for place, mode in enumerate(modes):
        across, bits = mode.median(key), mode.values.get("bits_after")
        if across and bits:
            says = f"{mode.name}: {text(across)} {name}, {bits.median:.4f} bits per byte"
            yield Point(mode.name, place, across, bits.median, bits.least, bits.most, says)


def _texts(modes: Sequence[Mode]) -> Iterator[dict[str, Any]]:
    """The base's continuation first, then one of each mode, by its first run."""
    first = [mode.outcomes[0].run for mode in modes]
    befores = [run for run in first if "before" in run.samples]
    if befores:
        yield _continued("the base", None, befores[0].samples["before"], befores[0].arguments)
    for place, (mode, run) in enumerate(zip(modes, first, strict=True)):
        if "after" in run.samples:
            yield _continued(mode.name, place, run.samples["after"], run.arguments)


def _continued(name: str, place: int | None, text: str, arguments: Any) -> dict[str, Any]:
    """``text`` in two parts: the prompt, and what the model made of it."""
    prompt = str(arguments.get("prompt", ""))
    known = prompt if prompt and text.startswith(prompt) else ""
    return {"name": name, "place": place, "prompt": known, "text": text.removeprefix(known)}


def _machines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Machine and versions, once where all runs have the same."""
    rows: dict[str, list[str]] = {}
    for run in comparison.runs:
        rows.setdefault("device", []).append(_device(run))
        for part in (run.machine, run.versions):
            for name, value in part.items():
                rows.setdefault(name, []).append(str(value))
    for name, values in rows.items():
        yield name, ", ".join(dict.fromkeys(value for value in values if value))


def _commands(modes: Sequence[Mode]) -> Iterator[tuple[str, str]]:
    for mode in modes:
        for outcome in mode.outcomes:
            words = command_of(outcome.run.folder)
            yield outcome.run.name, shlex.join(["slm-train", *words]) if words else "not started by slm-lab"
