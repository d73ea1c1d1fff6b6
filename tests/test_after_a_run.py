"""What a run leads to: the commands that it prints and the code of its card, run as they are."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import slm_testing.forked as forked
from slm_testing.model_cards import code_blocks, read_card, run_python_blocks
from slm_testing.workspace.capped_commands import run, with_flags
from slm_testing.workspace.servers import TIMEOUT

SMALL = "--max_train_samples 24 --max_eval_samples 2 --block_size 64 --max_steps 2 --per_device_train_batch_size 2"
CAPS = {
    "slm-paged": {"max_new_tokens": "4", "threads": "1"},
    "slm-serve": {"port": "0", "threads": "1"},
    "slm-lab": {"max_steps": "1", "threads": "1"},
    "slm-adapters": {},
}


def run_capped(command: str, folder: Path) -> None:
    """Run a command with limits; a server until it is ready, with its output in ``folder``."""
    words = shlex.split(command)
    words = with_flags(words, CAPS[words[0]])
    if words[0] != "slm-serve":
        assert run(words) == 0
        return
    process = forked.start("slm_serve.cli", words[1:], output=folder / "serve.txt")
    try:
        url = forked.wait_for_line(process, folder / "serve.txt", "ready: ", 120).removeprefix("ready: ")
        assert httpx.get(f"{url}/v1/models", timeout=TIMEOUT).status_code == 200
    finally:
        process.kill()
        process.join()


IN_THIS_PROCESS = {"slm-paged", "slm-adapters"}


@pytest.mark.parametrize(
    ("mode", "programs_to_run"),
    [
        ("butterfly", IN_THIS_PROCESS),
        pytest.param("butterfly", {*CAPS}, marks=pytest.mark.slow),
        pytest.param("baseline", {*CAPS}, marks=pytest.mark.slow),
    ],
    ids=["butterfly-in-this-process", "butterfly", "baseline"],
)
def test_the_printed_commands_work_for_a_run_on_own_texts(
    readme_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, programs_to_run: set[str]
) -> None:
    folder = tmp_path / "my runs" / mode
    flags = [*SMALL.split(), "--train_file", "texts/*.txt", "--model_path", "sample", "--threads", "1"]
    assert run(["slm-train", "--mode", mode, *flags, "--output_dir", str(folder)]) == 0
    output = capsys.readouterr().out
    lines = output[output.index("\nnext:") :].splitlines()[2:]
    commands = [line[line.index("slm-") :] for line in lines]
    programs = [shlex.split(command)[0] for command in commands]
    assert programs == ["slm-paged", "slm-serve", *(["slm-adapters"] if mode != "baseline" else []), "slm-lab"]
    for program, command in zip(programs, commands, strict=True):
        if program in programs_to_run:
            run_capped(command, tmp_path)
    compared = list((tmp_path / "my runs" / f"{mode}-compare").glob("*/run.json"))
    assert len(compared) == (2 if "slm-lab" in programs_to_run else 0)


@pytest.mark.parametrize("name", [pytest.param("lora", marks=pytest.mark.slow), "baseline"])
def test_the_code_of_a_card_works_in_its_folder(
    trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = trained(name)
    monkeypatch.chdir(folder)
    assert read_card(folder).data.get("pipeline_tag") == "text-generation"
    assert len(run_python_blocks(folder)) == (1 if name == "baseline" else 2)
    (command,) = [block for block in code_blocks(folder, "bash") if block.startswith("slm-serve")]
    run_capped(command, tmp_path)
