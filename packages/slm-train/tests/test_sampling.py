"""``--sample_every``: texts during training, which leave training as it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import finish, kill_and_resume, outcome
from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.cli import main
from slm_train.loop.time_budget import TrainingTime
from slm_train.reports.loggers.samples import report_samples
from slm_train.reports.sampling import describe_sample

FLOWS = pytest.mark.parametrize("flow", ["trainer", "dynamic"])


def command(flow: str, tiny: Tiny, folder: Path, *more: str) -> list[str]:
    return (dynamic if flow == "dynamic" else Tiny.flags)(tiny, folder, "--prompt", "One day", *more)


def samples(folder: Path) -> dict[int, Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line["samples"]) for line in lines if "samples" in line]
    assert len(dict(found)) == len(found), "a step was sampled twice"
    return dict(found)


@FLOWS
@pytest.mark.parametrize("mode", ["baseline", pytest.param("qlora", marks=pytest.mark.slow)])
def test_samples_are_logged_and_training_is_the_same_to_the_bit(
    tiny: Tiny, tmp_path: Path, flow: str, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--mode", mode, "--max_steps", "7")  # with dropout, so that random states matter
    assert main(command(flow, tiny, tmp_path / "without", *more)) == 0
    capsys.readouterr()
    assert main(command(flow, tiny, tmp_path / "with", *more, "--sample_every", "3")) == 0
    logged = samples(tmp_path / "with")
    assert list(logged) == [3, 6]
    printed = capsys.readouterr().out
    for step, (sample,) in logged.items():
        assert sample["prompt"] == "One day"
        assert sample["text"].startswith("One day")
        assert len(sample["text"]) > len("One day")
        assert f"step {step}  One day" in printed
    with_samples, without = outcome(tmp_path / "with"), outcome(tmp_path / "without")
    assert with_samples.weights == without.weights
    assert with_samples.losses == without.losses
    assert not samples(tmp_path / "without")


@pytest.mark.slow
@FLOWS
def test_a_run_killed_at_random_moments_has_each_sample_once(tiny: Tiny, tmp_path: Path, flow: str) -> None:
    more = ("--max_steps", "60", "--max_train_samples", "20", "--sample_every", "7", "--num_train_epochs", "99")
    more = (*more, *(("--save_steps", "3", "--per_device_train_batch_size", "2") if flow == "trainer" else ()))
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert finish(command(flow, tiny, alone, *more)) == 0
    kills = kill_and_resume(command(flow, tiny, killed, *more), killed, kills=3, seed=3, longest=0.15)
    assert len([line for line in kills if line.startswith("killed")]) >= 1, kills
    assert list(samples(alone)) == list(range(7, 61, 7))
    assert outcome(killed) == outcome(alone)


@pytest.mark.parametrize("order", ["clock first", "sampling first"])
def test_sampling_is_not_training_time(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock, state = TrainingTime(), (TrainingArguments(use_cpu=True), TrainerState(), TrainerControl())
    clock.on_train_begin()
    for _ in range(3):
        now += 2
        if order == "clock first":
            clock.on_step_end(*state)
        now += 100
        clock.exclude(100)
        if order == "sampling first":
            clock.on_step_end(*state)
    assert clock.seconds == 6


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--sample_every", "-1"), "--sample_every -1 must not be below 0"),
        (("--sample_every", "5", "--prompt", ""), "continues the texts of --prompt"),
    ],
    ids=str,
)
@FLOWS
def test_values_that_cannot_work_are_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, flow: str, flags: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(command(flow, tiny, tmp_path / "run", *flags))


def test_a_sample_is_one_paragraph_whose_prompt_is_dimmed() -> None:
    text = describe_sample(20, {"prompt": "One\nday", "text": "One\nday [bold]he  said:\n  no"})
    assert text.plain == "step 20  One day [bold]he  said: no"
    assert [text.plain[span.start : span.end] for span in text.spans] == ["One day"]


class Library:
    """Stands in for wandb and trackio."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def Table(self, columns: list[str], data: list[list[Any]]) -> list[dict[str, Any]]:
        return [dict(zip(columns, row, strict=True)) for row in data]


@pytest.mark.parametrize(("kind", "attribute"), [(WandbCallback, "_wandb"), (TrackioCallback, "_trackio")])
def test_samples_reach_loggers_as_a_table(kind: type[Any], attribute: str) -> None:
    callback = object.__new__(kind)  # without its package, the class cannot be constructed
    library = Library()
    setattr(callback, attribute, library)
    report_samples([callback], 4, [{"prompt": "One", "text": "One day"}])
    assert library.logged == [{"samples": [{"step": 4, "prompt": "One", "text": "One day"}], "train/global_step": 4}]


def test_samples_reach_tensorboard_as_text() -> None:
    texts: list[tuple[str, str, int]] = []
    callback: Any = object.__new__(TensorBoardCallback)
    callback.tb_writer = SimpleNamespace(add_text=lambda *values: texts.append(values), flush=lambda: None)
    report_samples([callback], 4, [{"prompt": "One", "text": "One day\nhe"}, {"prompt": "A", "text": "A b"}])
    assert texts == [("samples/1", "One day  \nhe", 4), ("samples/2", "A b", 4)]
