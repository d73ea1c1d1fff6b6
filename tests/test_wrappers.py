"""The wrappers in scripts/: where they can be started, the flags they pass on, and their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slm_testing.workspace.capped_commands import capped, run
from slm_testing.workspace.checked_commands import check
from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.wrapper_lines import program_line, words_for_uv

TRAINING = ("baseline", "lora", "qlora", "butterfly", "butterfly_block", "dynamic")
WRAPPERS = (*TRAINING, "kv", "paged", "serve")


def script(name: str) -> Path:
    return ROOT / "scripts" / f"{name}.sh"


def test_every_wrapper_is_tested_here() -> None:
    assert sorted(path.stem for path in (ROOT / "scripts").glob("*.sh")) == sorted(WRAPPERS)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_starts_in_any_folder_and_passes_flags_on_unchanged(name: str, tmp_path: Path) -> None:
    flags = ["--model_path", "a folder", "--threads", "1"]
    uv_command, project, root, *line = words_for_uv(script(name), flags, folder=tmp_path)
    assert (uv_command, project) == ("run", "--project")
    assert (tmp_path / root).resolve() == ROOT
    assert line[-4:] == flags
    check(line)


@pytest.mark.parametrize("name", WRAPPERS)
def test_help_of_a_wrapper_is_that_of_its_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: int | str | None = run(program_line(script(name), ["--help"]))
    except SystemExit as exit_:  # argparse exits after --help
        code = exit_.code
    assert code == 0
    assert "--model_path" in capsys.readouterr().out


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_wrapper_writes_a_finished_run_of_its_mode(name: str, trained: Callable[[str], Path]) -> None:
    record = json.loads((trained(name) / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["mode"] == ("lora" if name == "dynamic" else name)
    assert record["flow"] == ("dynamic" if name == "dynamic" else "trainer")
    assert record["speed"]["steps"] == 8


def test_the_cache_is_measured(readme_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capped(program_line(script("kv"), ["--json", "kv.json"]))) == 0
    assert (readme_folder / "kv.json").is_file()
    assert "tokens/s" in capsys.readouterr().out


def test_a_prompt_with_spaces_is_continued(readme_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capped(program_line(script("paged"), ["--prompt", "A red fox", "--ignore_eos"]))) == 0
    output = capsys.readouterr().out
    assert "A red fox" in output
    assert "8 tokens in" in output
