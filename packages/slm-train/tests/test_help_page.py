"""The page that --help prints: each of our flags, and no flag that does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from slm_testing.forked import run
from slm_train.cli import main
from slm_train.command_line.help.page import GROUPS
from slm_train.command_line.help.texts import TRAINING_TEXTS
from slm_train.command_line.parsing import PARSED_GROUPS


def flags_in(page: str) -> list[str]:
    return re.findall(r"^  --(\w+)", page, re.MULTILINE)


def every_flag() -> set[str]:
    parsed: Any = PARSED_GROUPS
    options = HfArgumentParser(parsed)._option_string_actions
    return {option.removeprefix("--") for option in options if option.startswith("--") and "-" not in option[2:]}


def test_help_shows_each_of_our_flags_once_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mode", "lora", "--help"]) == 0
    shown = flags_in(capsys.readouterr().out)
    ours = {name for group in GROUPS.values() for name in group.__dataclass_fields__}
    assert len(shown) == len(set(shown))
    assert set(shown) == ours | set(TRAINING_TEXTS)
    assert set(shown) <= every_flag()


def test_help_all_shows_every_flag_except_negations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help_all"]) == 0
    page = capsys.readouterr().out
    assert "%%" not in page
    shown = set(flags_in(page))
    hidden = every_flag() - shown - {"help"}
    assert {name.removeprefix("no_") for name in hidden if name.startswith("no_")} <= shown
    assert not {name for name in hidden if not name.startswith("no_")}


def test_the_help_page_fits_the_terminal(tmp_path: Path) -> None:
    done = run("slm_train.cli", ["-h"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 110
