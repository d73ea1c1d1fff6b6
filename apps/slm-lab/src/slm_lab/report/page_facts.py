"""Facts about the runs on the page: the subtitle, machines and versions, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from slm_lab.results.comparison import Comparison
from slm_lab.results.mode_results import ModeResults
from slm_lab.runs.reading import read_command
from slm_lab.runs.record import Run


def list_facts(comparison: Comparison) -> Iterator[str]:
    """Base, dataset, budget, seeds and device, as far as all runs have the same."""
    runs = comparison.runs
    yield from _common(run.base and f"base {run.base}" for run in runs)
    yield from _common(run.dataset and f"trained on {run.dataset}" for run in runs)
    yield from [f"{comparison.budget} per mode"] if comparison.budget else []
    yield "1 seed" if comparison.seed_count == 1 else f"{comparison.seed_count} seeds"
    yield from _common(_device(run) for run in runs)


def _common(values: Iterable[str]) -> list[str]:
    """Return the value if all are the same and not empty."""
    distinct = set(values)
    return [*distinct] if len(distinct) == 1 and "" not in distinct else []


def _device(run: Run) -> str:
    threads = f", {run.threads} {'thread' if run.threads == 1 else 'threads'}" if run.device == "CPU" else ""
    return f"{run.device}{threads}"


def list_machines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Device, machine and versions, each with the distinct values of all runs."""
    values: dict[str, list[str]] = {}
    for run in comparison.runs:
        values.setdefault("device", []).append(_device(run))
        for part in (run.machine, run.versions):
            for name, value in part.items():
                values.setdefault(name, []).append(str(value))
    for name, texts in values.items():
        yield name, ", ".join(dict.fromkeys(text for text in texts if text))


def list_commands(modes: Sequence[ModeResults]) -> Iterator[tuple[str, str]]:
    """Yield the slm-train command of each run, by the run's name."""
    for mode in modes:
        for result in mode.results:
            words = read_command(result.run.folder)
            yield result.run.name, shlex.join(["slm-train", *words]) if words else "not started by slm-lab"
