"""``slm-lab compare``: what is there, what is to be trained, the runs one after another, the page."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from slm_lab.children import LOG, Signals, forwarded, train
from slm_lab.comparison import Comparison
from slm_lab.errors import LabError
from slm_lab.figures import Outcome
from slm_lab.files import disk_explained, left_out_before, write
from slm_lab.flags import MODES
from slm_lab.plan import Planned, Settings, as_json, difference, flags_in, plan
from slm_lab.runs import (
    COMMAND,
    RUN,
    Damaged,
    checkpoint_bytes,
    command_of,
    curve,
    find_runs,
    read_run,
    shipped_bytes,
)
from slm_lab.table import show

State = Literal["new", "cut off", "done"]


def compare(given: argparse.Namespace) -> int:
    """Train what is not there yet and put it side by side. Returns the exit code. Raises LabError."""
    console, settings = terminal(), Settings.of(given)
    left_out = {mode: reason for mode in settings.modes if (reason := missing(mode, settings.passed_on))}
    planned = [run for run in plan(settings) if run.mode not in left_out]
    if not planned:
        raise LabError(f"none of the modes can run here: {next(iter(left_out.values()))}")
    states = {run.name: "new" if given.again else state_of(run) for run in planned}
    todo = [run for run in planned if states[run.name] != "done"]
    for run in planned:
        if run not in todo:
            console.print(f"{escape(run.name)}: done already ({escape(str(run.folder))})", soft_wrap=True)
    if todo:
        check_flags(todo)
        with forwarded() as signals:
            left_out |= _train_all(todo, states, signals, console)
        if signals.received:
            return _stopped(signals.received, console)
    failed = bool(left_out.keys() & {run.name for run in todo})
    _present([run.folder for run in planned if run.name not in left_out], settings.output_dir, left_out, console)
    return 1 if failed else 0


def remake(given: argparse.Namespace) -> int:
    """The page anew, from the run folders under a folder. Raises LabError where there are none."""
    folders = [*find_runs(_folder(given.folder))]
    if not folders:
        raise LabError(f"there is no run folder (with a {RUN}) under {given.folder}; give another folder")
    _present(folders, given.folder, left_out_before(given.folder), terminal())
    return 0


def terminal() -> Console:
    """As wide as the terminal; wide enough for a table where there is none."""
    return Console(width=None if Console().is_terminal else 110, highlight=False)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise LabError(f"there is no folder {path}; give one with run folders")
    return path


def missing(mode: str, passed_on: Sequence[str]) -> str | None:
    """Why a mode cannot run on this machine; None where it can."""
    four_bit = mode == "qlora" or (mode != "baseline" and "load_in_4bit" in dict(flags_in(passed_on)))
    if four_bit and find_spec("bitsandbytes") is None:
        return "it needs bitsandbytes, which is not installed (there are wheels for Linux, Windows and Apple silicon)"
    return None


def state_of(run: Planned) -> State:
    """How far a run has come. Raises LabError where its folder holds another one."""
    try:
        found = read_run(run.folder) if (run.folder / RUN).exists() else None
    except Damaged as damage:
        raise LabError(f"{run.folder / RUN}: {damage}; repair it, or give --again to train anew") from damage
    if found is None:
        return "new"
    command = command_of(run.folder)
    if command is None:
        raise LabError(
            f"{run.folder} holds a run that slm-lab did not start; give another --output_dir, or --again to replace it"
        )
    if differs := difference(command, run.argv):
        raise LabError(
            f"{run.folder} was trained with {differs}; give the same, another --output_dir, or --again to train anew"
        )
    return "done" if found.finished else "cut off"


def check_flags(runs: Sequence[Planned]) -> None:
    """Refuse before anything is trained what slm-train would refuse. Raises LabError."""
    from slm_adapters import AdapterError
    from slm_data import DataError
    from slm_train import TrainError as UserError
    from slm_train import UsageError
    from slm_train import parse_arguments as parse

    try:
        for argv in {run.mode: run.argv for run in runs}.values():
            parse(argv)
    except (AdapterError, DataError, UserError, UsageError) as mistake:
        raise LabError(str(mistake)) from mistake


def _train_all(
    todo: Sequence[Planned], states: Mapping[str, str], signals: Signals, console: Console
) -> dict[str, str]:
    """Train one after another; what fails does not end the others. Returns names with reasons."""
    failed: dict[str, str] = {}
    threads = _threads(todo)
    for number, run in enumerate(todo, 1):
        cut_off = states[run.name] == "cut off"
        console.print(f"[bold]{escape(run.name)}[/]{' goes on' if cut_off else ''} ({number} of {len(todo)})")
        if signals.received:
            break
        resume = ["--resume_from_checkpoint"] if cut_off else []
        with disk_explained(run.folder):
            _keep_command(run, anew=not cut_off)
            reason = train([*run.argv, *threads, *resume], run.folder, signals, console)
        if reason and not signals.received:
            failed[run.name] = f"it failed: {reason}"
            log = escape(str(run.folder / LOG))
            console.print(f"  failed: {escape(reason)} (all that it said: {log})", style="red", soft_wrap=True)
    return failed


def _keep_command(run: Planned, *, anew: bool) -> None:
    """For the question next time whether settings are the same. A record of an earlier run would answer it wrongly."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if anew:
        (run.folder / RUN).unlink(missing_ok=True)
    (run.folder / COMMAND).write_text(as_json(run.argv), encoding="utf-8")


def _threads(todo: Sequence[Planned]) -> list[str]:
    """One count for all, so that speeds compare: the one given, the one of a run that is there, or the fastest."""
    from slm_train import fastest_threads

    if "threads" in dict(flags_in(todo[0].argv)):
        return []
    for folder in find_runs(todo[0].folder.parent):
        try:
            if threads := read_run(folder).threads:
                return ["--threads", str(threads)]
        except Damaged:
            continue
    return ["--threads", str(fastest_threads())]


def _stopped(number: signal.Signals, console: Console) -> int:
    console.print(f"stopped by {number.name}; the same command goes on from there")
    return 128 + number


def _present(folders: Sequence[Path], place: Path, left_out: Mapping[str, str], console: Console) -> None:
    """The table, the page and the figures of the finished runs in ``folders``."""
    outcomes, unfit = [], dict(left_out)
    for folder in folders:
        name = folder.relative_to(place).as_posix() if folder != place else folder.resolve().name
        try:
            run = read_run(folder, name)
        except Damaged as damage:
            unfit.setdefault(name, f"{RUN}: {damage}")
            continue
        if run.finished:
            outcomes.append(Outcome(run, curve(folder), shipped_bytes(folder), checkpoint_bytes(folder)))
            unfit.pop(name, None)
        else:
            unfit.setdefault(name, f"it has not come to its end (its status: {run.status})")
    outcomes.sort(key=lambda outcome: MODES.index(outcome.run.mode) if outcome.run.mode in MODES else len(MODES))
    comparison = Comparison.of(outcomes, unfit)
    show(comparison, console)
    page = write(comparison, place)
    console.print(f"\npage: {page}", soft_wrap=True)
