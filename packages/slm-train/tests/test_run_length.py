"""The number of epochs of runs whose length the user did not set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slm_data import load_corpus
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.arguments import Arguments
from slm_train.cli import main
from slm_train.command_line.parsing import parse_arguments
from slm_train.data.rows import make_rows
from slm_train.data.run_length import choose_run_length, epochs_of_about_100_steps
from slm_train.model.base_model import find_base_model

FREE = ("--max_steps", "-1")  # no limit on steps, as without the flag


@pytest.mark.parametrize(
    ("steps", "epochs"), [(1, 10), (6, 10), (10, 10), (12, 8), (25, 4), (60, 2), (80, 1), (100, 1), (90_000, 1)]
)
def test_epochs_give_about_a_hundred_steps_within_one_and_ten(steps: int, epochs: int) -> None:
    assert epochs_of_about_100_steps(steps) == epochs


def chosen(argv: list[str], recorded: dict[str, Any] | None = None) -> tuple[Arguments, list[str]]:
    arguments, lines = parse_arguments(argv), list[str]()
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    rows = make_rows(arguments, corpus, base, lambda _: None)
    return choose_run_length(arguments, rows, recorded, lines.append), lines


@pytest.mark.parametrize("documents", [1, 9, 40])
def test_the_printed_length_is_that_of_the_run(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], documents: int
) -> None:
    assert main(tiny.flags(tmp_path / "run", *FREE, "--max_train_samples", str(documents))) == 0
    record = read_record(tmp_path / "run")
    epochs, rows = record["arguments"]["num_train_epochs"], record["data"]["train"]["rows"]
    steps = -(-rows // 4)
    assert record["speed"]["steps"] == epochs * steps
    assert epochs == (10 if steps <= 10 else round(100 / steps) or 1)
    noun = "document is" if documents == 1 else "documents are"
    assert f"{documents} {noun} {steps} step" in capsys.readouterr().out


def test_the_plan_of_the_token_budget_loop_has_that_length(tiny: Tiny, tmp_path: Path) -> None:
    small = ("--max_train_samples", "5", "--target_tokens_per_step", "126", "--log_interval", "99")
    assert main(dynamic(tiny, tmp_path / "run", *FREE, *small)) == 0
    record = read_record(tmp_path / "run")
    assert record["arguments"]["num_train_epochs"] > 1
    assert 60 <= record["speed"]["steps"] <= 140


@pytest.mark.parametrize("flags", [("--num_train_epochs", "1"), ("--max_steps", "7"), ("--max_minutes", "1")])
def test_a_length_that_the_user_gave_is_kept(tiny: Tiny, tmp_path: Path, flags: tuple[str, ...]) -> None:
    argv = tiny.flags(tmp_path, *flags)
    if "--max_steps" not in flags:
        position = argv.index("--max_steps")
        del argv[position : position + 2]
    arguments, lines = chosen(argv)
    assert arguments.training.num_train_epochs == 1
    assert lines == []


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"num_train_epochs": 1.0, "max_steps": -1}, 1),  # written before this rule
        ({"num_train_epochs": 2.5, "max_steps": -1}, 2.5),
        ({"num_train_epochs": 1.0, "max_steps": 4}, 10),  # was limited by steps, and is no longer
    ],
)
def test_a_resumed_run_keeps_its_epochs(tiny: Tiny, tmp_path: Path, settings: dict[str, Any], epochs: float) -> None:
    argv = tiny.flags(tmp_path, *FREE, "--max_train_samples", "5")
    arguments, lines = chosen(argv, {"arguments": settings})
    assert arguments.training.num_train_epochs == epochs
    assert len(lines) == 1
