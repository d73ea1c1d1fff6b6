"""The tests of the workspace that are marked ``gpu``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from gpu_checks.processes import ROOT
from gpu_checks.recorder import Recorder

MARK = "pytest.mark.gpu"
FOLDERS = ("packages", "apps", "tests")
WORDS = ("passed", "failed", "skipped")


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
    recorder.table("Tests", ["module", *WORDS], by_module(outcomes))
    failed = [f"{module}: {name}" for (module, name), word in outcomes.items() if word == "failed"]
    counts = {word: [*outcomes.values()].count(word) for word in WORDS}
    observed = "; ".join([", ".join(f"{count} {word}" for word, count in counts.items()), *failed])
    if completed.returncode or not outcomes:
        recorder.claim("tests", False, f"{observed}; pytest's exit code {completed.returncode}")
    elif not recorder.on_gpu and counts["skipped"] == len(outcomes):
        recorder.skip("tests", f"all {len(outcomes)} tests need a CUDA device")
    else:
        recorder.claim("tests", counts["passed"] > 0, observed)


def marked_files() -> list[Path]:
    """Return the test files that contain the mark: to collect all others takes longer than these tests."""
    files = (file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("test_*.py")))
    return [file for file in files if MARK in file.read_text(encoding="utf-8")]


def read_outcomes(report: Path) -> dict[tuple[str, str], str]:
    """Return the outcome of each test in pytest's report, by module and name."""
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        word = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        outcomes[case.get("classname", "").rpartition(".")[2], case.get("name", "")] = word
    return outcomes


def by_module(outcomes: Mapping[tuple[str, str], str]) -> list[list[str | int]]:
    """Return a row for each module: its name, and how many of its tests passed, failed and were skipped."""
    rows: list[list[str | int]] = []
    for module in dict.fromkeys(module for module, _ in outcomes):
        words = [word for (own, _), word in outcomes.items() if own == module]
        rows.append([module, *(words.count(word) for word in WORDS)])
    return rows
