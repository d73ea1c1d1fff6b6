"""Any value of any flag of ``--help_all`` ends in a run, or in one sentence before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slm_adapters import AdapterError
from slm_data import DataError
from slm_testing.train.flag_values import VALUES, Outcome
from slm_testing.train.tiny_runs import Tiny
from slm_train.cli import main
from slm_train.command_line.help.page import help_page
from slm_train.command_line.parsing import parse_arguments
from slm_train.errors import TrainError

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOWS = pytest.mark.parametrize("flow", [(), ("dynamic",)], ids=["trainer", "dynamic"])
STRIDE = 8  # a tenth of a second to a second for each value
ANY_VALUE = st.sampled_from(VALUES) | st.text(max_size=8)


def flags_of(flow: tuple[str, ...]) -> list[str]:
    """Return the flags that the long help page lists."""
    return re.findall(r"^  --(\w+)", help_page([*flow, "--help_all"]), re.MULTILINE)


@pytest.fixture(autouse=True)
def somewhere_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make relative paths, the home folder and the hub those of no one, and undo what a flag sets for the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def attempt(
    tiny: Tiny, flow: tuple[str, ...], name: str, value: str, capsys: pytest.CaptureFixture[str], *more: str
) -> Outcome:
    """Run a command line of the tiny model with one flag set to ``value``."""
    folder = Path("out")
    argv = tiny.flags(folder, *more, f"--{name}={value}")
    code = main([*flow, *argv])
    return Outcome(code, capsys.readouterr().err, folder if name != "output_dir" else Path("out of the way"))


def parse(tiny: Tiny, flow: tuple[str, ...], name: str, value: str) -> None:
    """Parse a command line, which raises nothing but errors of a user."""
    with suppress(TrainError, DataError, AdapterError):
        parse_arguments([*flow, *tiny.flags("out", f"--{name}={value}")])


@FLOWS
def test_any_value_of_any_flag_is_parsed_or_refused(tiny: Tiny, flow: tuple[str, ...]) -> None:
    @settings(QUICK, max_examples=100)
    @given(st.sampled_from(flags_of(flow)), ANY_VALUE)
    def check(name: str, value: str) -> None:
        parse(tiny, flow, name, value)

    check()
    assert not Path("out").exists()


@FLOWS
def test_any_value_of_any_flag_ends_in_a_run_or_in_one_sentence(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], flow: tuple[str, ...]
) -> None:
    @settings(QUICK, max_examples=5)
    @given(st.sampled_from(flags_of(flow)), ANY_VALUE)
    @example("adam_beta1", "1.5")
    @example("lr_scheduler_type", "warmup_stable_decay")
    @example("optim", "galore_adamw")
    @example("run_name", "a\nb")
    def check(name: str, value: str) -> None:
        outcome = attempt(tiny, flow, name, value, capsys, "--dry_run")
        assert not outcome.fault(), (name, value)

    check()


@pytest.mark.slow
@FLOWS
def test_every_flag_with_many_values(tiny: Tiny, capsys: pytest.CaptureFixture[str], flow: tuple[str, ...]) -> None:
    for position, name in enumerate(flags_of(flow)):
        for value in VALUES[position % STRIDE :: STRIDE]:
            fault = attempt(tiny, flow, name, value, capsys, "--dry_run").fault()
            assert not fault, (name, value)
