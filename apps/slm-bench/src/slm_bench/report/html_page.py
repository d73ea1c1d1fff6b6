"""The HTML page: a single file with styles and drawings included. Everything that comes from files is escaped."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from slm_bench.report.gathering import Gathered
from slm_bench.report.side_by_side import side_by_side


def render_page(gathered: Gathered) -> str:
    """Return the page as HTML."""
    package = files("slm_bench.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((package / "page.html").read_text(encoding="utf-8"))
    return template.render(
        style=(package / "page.css").read_text(encoding="utf-8"),
        gathered=gathered,
        tables={name: side_by_side(runs) for name, runs in gathered.benchmarks.items()},
        format_value=_format_value,
        anchor=_anchor,
    )


def _format_value(name: str, value: Any) -> str:
    """Format a setting or a fact about a machine."""
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
    """Return ``name`` as the id of an element."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)
