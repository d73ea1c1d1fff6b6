"""Fixtures of the tests of slm-lab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_lab.cli import main
from slm_lab.results.comparison import Comparison
from slm_lab.results.mode_results import ModeResults
from slm_testing.lab.made_runs import read_mode_results, write_run


@pytest.fixture
def make_mode(tmp_path: Path) -> Callable[..., ModeResults]:
    """Make the results of a mode from its name and the bits per byte of each seed."""

    def make(name: str, *bits: float, **changes: Any) -> ModeResults:
        seeds = enumerate(bits or (1.2,))
        folders = (write_run(tmp_path / f"{name}-{seed}", name, bits=value, **changes) for seed, value in seeds)
        return read_mode_results(name, *folders)

    return make


@pytest.fixture
def all_modes(make_mode: Callable[..., ModeResults]) -> Comparison:
    """A comparison of all modes, with two seeds each."""
    bits_after = {"baseline": 1.1, "lora": 1.2, "qlora": 1.21, "butterfly": 1.3, "butterfly_block": 1.35}
    return Comparison(tuple(make_mode(name, bits, bits + 0.02) for name, bits in bits_after.items()))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must be refused with exit code 2, and return the one sentence that it prints."""

    def run(*argv: object) -> str:
        assert main([str(word) for word in argv]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run
