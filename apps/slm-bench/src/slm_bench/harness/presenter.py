"""Presenting the result of a benchmark: tables, guarantees, a JSON file, a plot and the exit code."""

import sys
from pathlib import Path
from typing import Any

from slm_bench.harness.plots import plot_comparisons
from slm_bench.harness.result_file import ResultFile, save_result
from slm_bench.harness.tables import comparison_table, guarantee_table, new_console


def present(result: ResultFile, json: str | None, plot: str | None) -> int:
    """Print ``result``, write it to ``json`` and plot it to ``plot``.

    Returns:
        The exit code: 1 if a guarantee was broken, otherwise 0.
    """
    print_result(result)
    if json:
        save_result(result, Path(json))
    if plot and (files := plot_comparisons(result, Path(plot))):
        print("plot: " + ", ".join(map(str, files)))
    return 0 if result.guarantees_kept == len(result.guarantees) else 1


def print_result(result: ResultFile) -> None:
    """Print results to stdout, peers that were left out to stderr."""
    machine, console = result.machine, new_console()
    settings = format_settings(result.settings)
    where = f"{machine['cpu']}, {machine['cores']} cores, {result.when[:10]}"
    print(f"{where}; {settings}; medians of rounds (minimum to maximum)")
    for comparison in result.results.comparisons:
        console.print(comparison_table(comparison))
    if result.guarantees:
        console.print(guarantee_table(result.guarantees))
    for peer, reason in result.results.left_out.items():
        print(f"{peer} is left out: {reason}", file=sys.stderr)


def format_settings(settings: dict[str, Any]) -> str:
    """Format settings in one line, without those that are switched off."""
    used = {name: value for name, value in settings.items() if value not in (None, False, [])}
    return ", ".join(name if value is True else f"{name} {_format(value)}" for name, value in used.items())


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
