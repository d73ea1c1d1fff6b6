"""Training the planned runs one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from slm_lab.compare.child_process import LOG_FILE, SignalForwarder, run_slm_train
from slm_lab.compare.command_lines import command_json, split_flags
from slm_lab.compare.plan import PlannedRun
from slm_lab.compare.run_state import RunState
from slm_lab.disk_errors import explain_disk_errors
from slm_lab.errors import DamagedRecordError
from slm_lab.runs.discovery import find_runs
from slm_lab.runs.reading import read_run
from slm_lab.runs.record import COMMAND_FILE, RECORD_FILE


def train_runs(
    runs: Sequence[PlannedRun], states: Mapping[str, RunState], signals: SignalForwarder, console: Console
) -> dict[str, str]:
    """Train ``runs`` one after another, until all are done or a signal arrives.

    Returns:
        The names of the runs that failed, with the reason. A failed run does not end the others.

    Raises:
        LabError: Where a run folder cannot be written.
    """
    failures: dict[str, str] = {}
    threads = _thread_words(runs)
    for number, run in enumerate(runs, 1):
        resumed = states[run.name] == "interrupted"
        console.print(f"[bold]{escape(run.name)}[/]{', resumed' if resumed else ''} ({number} of {len(runs)})")
        if signals.received:
            break
        resume = ["--resume_from_checkpoint"] if resumed else []
        with explain_disk_errors(run.folder):
            _prepare_folder(run, resumed=resumed)
            reason = run_slm_train([*run.argv, *threads, *resume], run.folder, signals, console)
        if reason and not signals.received:
            failures[run.name] = f"it failed: {reason}"
            log = escape(str(run.folder / LOG_FILE))
            console.print(f"  failed: {escape(reason)} (log: {log})", style="red", soft_wrap=True)
    return failures


def _prepare_folder(run: PlannedRun, *, resumed: bool) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    if not resumed:
        # Otherwise the record of an earlier run would count as this one's until slm-train writes its own.
        (run.folder / RECORD_FILE).unlink(missing_ok=True)
    # The next `slm-lab compare` reads this to detect other settings.
    (run.folder / COMMAND_FILE).write_text(command_json(run.argv, run.variant.label), encoding="utf-8")


def _thread_words(runs: Sequence[PlannedRun]) -> list[str]:
    """Return the --threads flag for all runs: speeds are comparable only with the same number of threads.

    The number is the one that was passed on, else that of a run already in the folder, else the fastest.
    """
    from slm_train import fastest_threads

    if "threads" in dict(split_flags(runs[0].argv)):
        return []
    for folder in find_runs(runs[0].folder.parent):
        try:
            if threads := read_run(folder).threads:
                return ["--threads", str(threads)]
        except DamagedRecordError:
            continue
    return ["--threads", str(fastest_threads())]
