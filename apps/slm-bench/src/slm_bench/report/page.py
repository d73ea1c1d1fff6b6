"""The page: one file of HTML, with its styles and drawings in it. All that comes from files is escaped."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from slm_bench.report.gather import Gathered
from slm_bench.report.tables import sides


def page(gathered: Gathered) -> str:
    """As HTML."""
    held = files("slm_bench.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((held / "page.html").read_text(encoding="utf-8"))
    return template.render(
        style=(held / "page.css").read_text(encoding="utf-8"),
        gathered=gathered,
        sides={name: sides(runs) for name, runs in gathered.benchmarks.items()},
        shown=_shown,
        anchor=_anchor,
    )


def _shown(name: str, value: Any) -> str:
    """A setting or a fact, as a reader would say it."""
    if value is None or value == "":
        return "–"
    if name == "memory" and isinstance(value, int | float):
        return f"{value / 2**30:.0f} GiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _anchor(name: str) -> str:
    """What a link within the page may be called."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)
