"""``slm-lab compare`` trains the missing runs and reports all of them; ``slm-lab page`` only reports."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from slm_lab.compare.child_process import forward_signals
from slm_lab.compare.matches_table import print_matches
from slm_lab.compare.matching import match_parameters, with_matches
from slm_lab.compare.plan import PlannedRun, plan_runs
from slm_lab.compare.preflight import check_command_lines, unavailable_reason
from slm_lab.compare.run_state import RunState, read_state, refuse_active
from slm_lab.compare.settings import ComparisonSettings
from slm_lab.compare.train_runs import train_runs
from slm_lab.console import new_console
from slm_lab.errors import LabError
from slm_lab.report.files import read_left_out, write_report
from slm_lab.report.terminal_table import print_comparison
from slm_lab.results.reading import read_comparison
from slm_lab.runs.discovery import find_runs
from slm_lab.runs.record import RECORD_FILE


def compare(arguments: argparse.Namespace) -> int:
    """Train the runs that are not finished yet, and report all of them. Returns the exit code.

    Raises:
        LabError: If nothing can be trained, a flag is refused, or a folder contains another run.
    """
    console, settings = new_console(), ComparisonSettings.from_arguments(arguments)
    settings = _match(settings, arguments, console)
    unavailable = {variant: unavailable_reason(variant.mode, settings.passed_on) for variant in settings.variants}
    left_out = {variant.folder: reason for variant, reason in unavailable.items() if reason}
    planned = [run for run in plan_runs(settings) if not unavailable[run.variant]]
    if not planned:
        raise LabError(f"none of the modes can run here: {next(iter(left_out.values()))}")
    refuse_active(planned)
    states: dict[str, RunState] = {run.name: "new" if arguments.again else read_state(run) for run in planned}
    unfinished = [run for run in planned if states[run.name] != "finished"]
    _print_finished([run for run in planned if run not in unfinished], console)
    if unfinished:
        check_command_lines(unfinished)
        with forward_signals() as signals:
            left_out |= train_runs(unfinished, states, signals, console)
        if signals.received:
            return _report_signal(signals.received, console)
    failed = any(run.name in left_out for run in unfinished)
    _report([run.folder for run in planned if run.name not in left_out], settings.output_dir, left_out, console)
    return 1 if failed else 0


def rebuild_page(arguments: argparse.Namespace) -> int:
    """Report the runs under a folder without training. Returns the exit code.

    Raises:
        LabError: If there are none.
    """
    folder = arguments.folder
    if not folder.is_dir():
        raise LabError(f"the folder {folder} does not exist; choose one that contains run folders")
    run_folders = [*find_runs(folder)]
    if not run_folders:
        raise LabError(f"there is no run folder (with a {RECORD_FILE}) under {folder}; choose another folder")
    _report(run_folders, folder, read_left_out(folder), new_console())
    return 0


def _match(settings: ComparisonSettings, arguments: argparse.Namespace, console: Console) -> ComparisonSettings:
    """Choose settings with as many parameters, and print them, with ``--match``."""
    references = arguments.match_to or (None,)
    if len(references) > 1 or (arguments.match_to and not arguments.match):
        raise LabError("--match_to takes one mode, and needs --match parameters")
    if not arguments.match:
        return settings
    matches = match_parameters(settings, references[0])
    print_matches(matches, console)
    return with_matches(settings, matches)


def _print_finished(runs: Sequence[PlannedRun], console: Console) -> None:
    for run in runs:
        console.print(f"{escape(run.name)}: already finished ({escape(str(run.folder))})", soft_wrap=True)


def _report_signal(number: signal.Signals, console: Console) -> int:
    console.print(f"interrupted by {number.name}; repeat the command to continue")
    return 128 + number  # the convention of shells


def _report(folders: Sequence[Path], root: Path, left_out: Mapping[str, str], console: Console) -> None:
    comparison = read_comparison(folders, root, left_out)
    print_comparison(comparison, console)
    page = write_report(comparison, root)
    console.print(f"\npage: {page}", soft_wrap=True)
