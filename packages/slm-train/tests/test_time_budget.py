"""Runs that are limited by time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments, get_scheduler

from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.arguments import UNLIMITED_STEPS
from slm_train.cli import main
from slm_train.loop.time_budget import TimeBudget, read_seconds_spent

SECONDS = 1.5


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Loop:
    """Calls a TimeBudget of ten seconds as the Trainer does."""

    def __init__(self, folder: Path, clock: Clock, kind: str = "linear", seconds: float = 0.0, **flags: Any) -> None:
        self.args = TrainingArguments(str(folder), use_cpu=True, **flags)
        self.state, self.control, self.clock = TrainerState(), TrainerControl(), clock
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self.schedule: Any = get_scheduler(kind, optimizer, num_warmup_steps=0, num_training_steps=UNLIMITED_STEPS)
        self.budget = TimeBudget(10 / 60, seconds)
        self.budget.on_train_begin(self.args, self.state, self.control, lr_scheduler=self.schedule)

    def step(self, seconds: float) -> TrainerControl:
        self.clock.now += seconds
        self.control = TrainerControl()
        self.schedule.optimizer.step()
        self.schedule.step()
        self.budget.on_step_end(self.args, self.state, self.control, lr_scheduler=self.schedule)
        return self.control

    @property
    def rate(self) -> float:
        return float(self.schedule.optimizer.param_groups[0]["lr"])


def test_the_learning_rate_follows_the_fraction_of_the_time(tmp_path: Path, clock: Clock) -> None:
    loop = Loop(tmp_path, clock)
    for seconds, rate in ((1, 0.9), (4, 0.5), (0.5, 0.45), (4.5, 0.0)):
        loop.step(seconds)
        assert loop.rate == pytest.approx(rate)


def test_training_ends_with_the_step_that_spends_the_time(tmp_path: Path, clock: Clock) -> None:
    loop = Loop(tmp_path, clock)
    assert not loop.step(9.9).should_training_stop
    last = loop.step(0.2)
    assert last.should_training_stop
    assert last.should_save  # the default save strategy, steps: a finished run can be resumed


def test_evaluations_and_checkpoints_do_not_count(tmp_path: Path, clock: Clock) -> None:
    loop = Loop(tmp_path, clock)
    loop.step(2)
    clock.now += 100
    loop.budget.on_evaluate()
    clock.now += 100
    loop.budget.on_save()
    loop.step(3)
    assert loop.budget.seconds == 5


def test_an_interval_below_1_is_a_fraction_of_the_time(tmp_path: Path, clock: Clock) -> None:
    loop = Loop(tmp_path, clock, eval_strategy="steps", eval_steps=0.25, save_strategy="no")
    evaluation_due = [loop.step(0.7).should_evaluate for _ in range(15)]
    due = [step for step, evaluates in enumerate(evaluation_due, 1) if evaluates]
    assert due == [4, 8, 11, 15]  # the first steps that end after 2.5, 5, 7.5 and 10 seconds


def test_a_resumed_run_has_the_remaining_time(tmp_path: Path, clock: Clock) -> None:
    first = Loop(tmp_path, clock)
    first.step(4)
    first.state.stateful_callbacks["TimeBudget"] = first.budget.state()
    first.state.save_to_json(str(tmp_path / "trainer_state.json"))
    assert read_seconds_spent(tmp_path) == 4
    second = Loop(tmp_path, clock, seconds=read_seconds_spent(tmp_path))
    assert second.step(1).should_training_stop is False
    assert second.rate == pytest.approx(0.5)
    assert second.step(5).should_training_stop


def test_a_run_that_used_its_time_is_finished_and_stays_so(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    minutes = ("--max_minutes", str(SECONDS / 60), "--eval_strategy", "steps", "--eval_steps", "0.5")
    flags = [*_without_steps(tiny.flags(run, "--mode", "lora")), *minutes]
    assert main(flags) == 0
    record = read_record(run)
    assert record["status"] == "finished"
    assert SECONDS <= record["speed"]["train_seconds"] < 2 * SECONDS
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    evaluated_at = [line["seconds"] for line in lines if "eval_loss" in line]
    assert evaluated_at[0] == 0
    assert evaluated_at[1] >= SECONDS / 2
    assert evaluated_at[-1] >= SECONDS
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates == sorted(rates, reverse=True)
    assert main([*flags, "--resume_from_checkpoint"]) == 0
    assert read_record(run)["speed"] == record["speed"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--max_minutes", "0"), "--max_minutes 0 must be above 0"),
        (("--max_minutes", "nan"), "--max_minutes nan must be a finite number above 0"),
        (("--max_minutes", "1", "--max_steps", "5"), "--max_minutes and --max_steps"),
        (("--max_minutes", "1", "--num_train_epochs", "2"), "--max_minutes and --num_train_epochs"),
        (("--max_minutes", "1", "--warmup_steps", "5"), "--warmup_steps 5 counts steps"),
        (("--max_minutes", "1", "--lr_scheduler_type", "inverse_sqrt"), "--lr_scheduler_type inverse_sqrt"),
    ],
    ids=" ".join,
)
def test_flags_that_contradict_a_time_limit_are_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, flags: tuple[str, ...], expected: str
) -> None:
    assert expected in refused([*_without_steps(tiny.flags(tmp_path / "run")), *flags])
    assert not (tmp_path / "run").exists()


def test_the_token_budget_loop_refuses_a_time_limit(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    assert "--max_minutes has no effect" in refused(["dynamic", *tiny.flags(tmp_path / "run"), "--max_minutes", "1"])


def _without_steps(flags: list[str]) -> list[str]:
    position = flags.index("--max_steps")
    return flags[:position] + flags[position + 2 :]
