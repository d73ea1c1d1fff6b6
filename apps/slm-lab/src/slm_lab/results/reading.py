"""Reading run folders into a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from slm_lab.errors import DamagedRecordError
from slm_lab.modes import MODES, PEER_MODES
from slm_lab.results.comparison import Comparison
from slm_lab.results.run_result import RunResult
from slm_lab.runs.reading import read_run
from slm_lab.runs.record import RECORD_FILE


def read_comparison(folders: Sequence[Path], root: Path, left_out: Mapping[str, str]) -> Comparison:
    """Compare the finished runs in ``folders``; damaged and unfinished ones are left out.

    Args:
        folders: Run folders under ``root``. Runs are named by their path there.
        root: The folder of the comparison.
        left_out: Names of runs that are known to be missing, with the reason. A finished run overrides its entry.
    """
    results, reasons = [], dict(left_out)
    for folder in folders:
        name = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
        try:
            run = read_run(folder, name)
        except DamagedRecordError as error:
            reasons.setdefault(name, f"{RECORD_FILE}: {error}")
            continue
        if run.finished:
            results.append(RunResult.read(run, folder))
            reasons.pop(name, None)
        else:
            reasons.setdefault(name, f"it has not finished (status: {run.status})")
    results.sort(key=_mode_order)
    return Comparison.from_results(results, reasons)


def _mode_order(result: RunResult) -> int:
    mode = result.run.mode
    known = (*MODES, *PEER_MODES)
    return known.index(mode) if mode in known else len(known)
