"""The end of a run in the terminal: texts before and after training, and commands for the run folder."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slm_train.command_line.parsing import parse_arguments
from slm_train.reports.final_report import show_next_commands, show_samples
from slm_train.reports.next_commands import next_commands

WORDS = "the dragon flew over the hill and sang to the moon "
SAMPLES = {
    when: [{"prompt": prompt, "text": f"{prompt} {when}{number} {WORDS * 4}"} for number, prompt in enumerate("ab")]
    for when in ("before", "after")
}
ALL = {"slm-paged", "slm-serve", "slm-lab"}


def shown(samples: dict[str, list[dict[str, str]]], width: int, terminal: bool = True, color: bool = False) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system="standard" if color else None, soft_wrap=True
    )
    show_samples(console, samples)
    return file.getvalue()


@pytest.mark.parametrize("width", [90, 120, 160, 250])
def test_a_wide_terminal_shows_the_texts_side_by_side(width: int) -> None:
    lines = shown(SAMPLES, width).splitlines()
    assert max(map(len, lines)) <= min(width, 160)
    assert [line for line in lines if "before training" in line and "after training" in line]
    for number in "01":
        (line,) = [line for line in lines if f"before{number}" in line]
        assert line.index(f"before{number}") < line.index(f"after{number}")


@pytest.mark.parametrize(("width", "terminal"), [(40, True), (80, True), (120, False)])
def test_elsewhere_each_text_is_below_its_counterpart(width: int, terminal: bool) -> None:
    output = shown(SAMPLES, width, terminal)
    lines = output.splitlines()
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if line.endswith(" ")]
    order = [output.index(f"{when}{number}") for number in "01" for when in ("before", "after")]
    assert order == sorted(order)
    assert output.split().count("moon") == 16


def test_texts_cannot_control_the_terminal_or_rich() -> None:
    sample = {"prompt": "a", "text": "a\x1b[31m[bold]red[/] \x9b\x07 b\n\n\n\n\nc"}
    output = shown({"before": [sample], "after": [sample]}, 100, color=False)
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "[bold]red[/]" in output
    assert "\ufffd" in output


def test_the_prompt_is_dimmed() -> None:
    assert "\x1b[2mOnce\x1b[0m upon" in shown({"after": [{"prompt": "Once", "text": "Once upon"}]}, 80, color=True)


def test_a_run_without_prompts_shows_no_texts() -> None:
    assert shown({}, 100) == ""


def commands(
    *words: str, mode: str = "lora", dataset: str = "x", installed: set[str] = ALL, **more: Any
) -> dict[str, list[str]]:
    """Return the words of each command, by its name; ``more`` is in the record of the run."""
    record = {"mode": mode, "dataset": dataset, "base": "sample", "speed": {"steps": 7}, **more}
    arguments = parse_arguments(words)
    folder = Path("my runs/x")
    listed = [shlex.split(line) for _, line in next_commands(arguments, record, folder, installed, "")]
    return {words[0]: words for words in listed}


def test_the_commands_are_for_this_run() -> None:
    found = commands("--train_file", "my texts/*.txt", "--prompt", "It's", "b", "--block_size", "64", "--threads", "1")
    assert found["slm-paged"] == ["slm-paged", "--model_path", "my runs/x", "--prompt", "It's"]
    assert found["slm-serve"] == ["slm-serve", "--model_path", "my runs/x"]
    assert found["slm-adapters"] == ["slm-adapters", "merge", "my runs/x", "my runs/x-merged"]
    assert found["slm-lab"] == [
        *("slm-lab", "compare", "--modes", "lora,butterfly", "--max_steps", "7", "--train_file", "my texts/*.txt"),
        *("--block_size", "64", "--output_dir", "my runs/x-compare"),
    ]
    assert "slm-train" not in found


@pytest.mark.parametrize(
    ("prompts", "words"),
    [((), []), (("--prompt", ""), []), (("--prompt=-z",), ["--prompt=-z"]), (("--prompt", "- no"), ["--prompt=- no"])],
)
def test_the_first_prompt_is_continued(prompts: tuple[str, ...], words: list[str]) -> None:
    assert commands(*prompts)["slm-paged"] == ["slm-paged", "--model_path", "my runs/x", *words]


def test_a_whole_model_is_not_merged_and_a_demo_leads_to_own_text() -> None:
    found = commands(mode="baseline", dataset="sample")
    assert "slm-adapters" not in found
    assert found["slm-lab"][3] == "baseline,lora"
    assert found["slm-train"] == ["slm-train", "--train_file", "your.txt", "--model_path", "sample"]


@pytest.mark.parametrize(
    ("chat", "stop"),
    [
        ({"end_of_turn": None, "stops": ["\nUser:", "\nSystem:"]}, []),
        ({"end_of_turn": "<|im_end|>", "stops": []}, []),
        ({"end_of_turn": "<|im_end|>", "stops": ["<|im_end|>"]}, ["--stop", "<|im_end|>"]),
    ],
)
def test_a_model_that_was_trained_to_chat_is_asked(chat: dict[str, Any], stop: list[str]) -> None:
    flags = ("--chat_template", "chatml", "--prompt", "It's \u201cré\u201d?")
    found = commands(*flags, chat=chat)
    assert found["slm-paged"] == ["slm-paged", "--model_path", "my runs/x", "--chat", *flags[2:], *stop]
    assert json.loads(found["curl"][-1]) == {"messages": [{"role": "user", "content": flags[-1]}]}
    assert found["slm-lab"][6:8] == list(flags[:2])
    assert list(found) == ["slm-paged", "slm-serve", "curl", "slm-adapters", "slm-lab"]
    assert "curl" not in commands(*flags, chat=chat, installed={"slm-paged"})


@pytest.mark.parametrize("mode", ["baseline", "lora", "qlora", "butterfly", "butterfly_block"])
def test_a_comparison_has_the_mode_of_the_run_and_another(mode: str) -> None:
    modes = commands(mode=mode)["slm-lab"][3].split(",")
    assert mode in modes
    assert len(set(modes)) == 2


def test_only_installed_commands_are_named() -> None:
    assert commands(installed=set()).keys() == {"slm-adapters"}
    assert commands(installed={"slm-serve"}).keys() == {"slm-adapters", "slm-serve"}


def test_a_readme_of_the_user_is_mentioned(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    record: dict[str, Any] = {"mode": "lora", "dataset": "x", "base": "sample", "speed": {"steps": 7}}
    file = io.StringIO()
    show_next_commands(Console(file=file, width=60, soft_wrap=True), parse_arguments([]), record, tmp_path)
    output = file.getvalue()
    assert "README.md is your own and was left as it is" in output
    assert [line for line in output.splitlines() if f"merge {tmp_path} {tmp_path}-merged" in line]  # not wrapped
