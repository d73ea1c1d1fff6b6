"""The tests of the workspace that are marked ``gpu``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from gpu_checks.processes import ROOT
from gpu_checks.recorder import Recorder

MARK = "pytest.mark.gpu"
FOLDERS = ("packages", "apps", "tests")


def run(recorder: Recorder) -> None:
    """Run the tests, in one process and with the configuration of the workspace but for its plugins."""
    report = recorder.folder / "tests.xml"
    files = marked_files()
    # The configured options need pytest-xdist, which may not be installed.
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-q", "-rf", "-m", "gpu"]
    completed = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *map(str, files)], cwd=ROOT, check=False
    )
    outcomes = read_outcomes(report) if report.exists() else {}
    recorder.table("Tests", ["test", "outcome"], list(outcomes.items()))
    counts = {word: [*outcomes.values()].count(word) for word in ("passed", "failed", "skipped")}
    observed = ", ".join(f"{count} {word}" for word, count in counts.items())
    if completed.returncode or not outcomes:
        recorder.claim("tests", False, f"{observed}; pytest's exit code {completed.returncode}")
    elif not recorder.on_gpu and counts["skipped"] == len(outcomes):
        recorder.skip("tests", f"all {len(outcomes)} tests need a CUDA device")
    else:
        recorder.claim("tests", counts["failed"] == 0 and counts["passed"] > 0, observed)


def marked_files() -> list[Path]:
    """Return the test files that contain the mark: to collect all others takes longer than these tests."""
    files = (file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("test_*.py")))
    return [file for file in files if MARK in file.read_text(encoding="utf-8")]


def read_outcomes(report: Path) -> dict[str, str]:
    """Return the outcome of each test in pytest's report."""
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        word = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        outcomes[f"{case.get('classname', '').rpartition('.')[2]}: {case.get('name')}"] = word
    return outcomes
