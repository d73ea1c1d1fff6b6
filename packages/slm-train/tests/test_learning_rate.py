"""Learning-rate schedules in tokens, and in runs that were lengthened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from slm_train.errors import TrainError
from slm_train.loop.learning_rate import follow_tokens, update_learning_rate, warmup_in_tokens


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)


def rates_of(kind: str, length: int, warmup: int, steps: int) -> list[float]:
    schedule = get_scheduler(kind, optimizer(), num_warmup_steps=warmup, num_training_steps=length)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_schedule_in_tokens_has_the_rate_of_the_tokens_before_each_step(kind: str) -> None:
    before = np.array([0, 40, 95, 130, 200])
    by_token = rates_of(kind, 200, 50, 200)
    schedule = get_scheduler(kind, optimizer(), num_warmup_steps=50, num_training_steps=200)
    follow_tokens(schedule, before)
    for tokens in before[:-1]:
        assert schedule.get_last_lr()[0] == by_token[tokens]
        schedule.optimizer.step()
        schedule.step()


def test_a_lengthened_run_has_the_rates_of_the_longer_schedule() -> None:
    short = get_scheduler("linear", optimizer(), num_warmup_steps=0, num_training_steps=4)
    for _ in range(3):
        short.optimizer.step()
        short.step()
    longer = get_scheduler("linear", optimizer(), num_warmup_steps=0, num_training_steps=9)
    longer.load_state_dict(short.state_dict())
    update_learning_rate(longer)
    expected = rates_of("linear", 9, 0, 4)[3]
    assert longer.get_last_lr()[0] == expected
    assert longer.optimizer.param_groups[0]["lr"] == expected


def test_a_schedule_that_is_not_a_function_of_the_step_is_refused() -> None:
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer())
    with pytest.raises(TrainError, match="--schedule_in tokens does not work with ReduceLROnPlateau"):
        follow_tokens(schedule, np.array([0, 1]))


@pytest.mark.parametrize("kind", ["linear", "cosine", "cosine_with_restarts", "polynomial", "warmup_stable_decay"])
@pytest.mark.parametrize("tokens", [True, False])
def test_a_longer_run_has_its_own_rates_after_a_shorter_one(kind: str, tokens: bool) -> None:
    def schedule(length: int, before: list[int]) -> Any:
        more = {"num_decay_steps": length // 3} if kind == "warmup_stable_decay" else None
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        schedule: Any = get_scheduler(kind, optimizer, 5, length, more)
        if tokens:
            follow_tokens(schedule, np.array(before))
        return schedule

    def step(schedule: Any, count: int) -> None:
        for _ in range(count):
            schedule.optimizer.step()
            schedule.step()

    before = list(range(0, 130, 9)) if tokens else list(range(14))
    short, longer, fresh = (schedule(before[n], before[: n + 1]) for n in (4, 13, 13))
    step(short, 4)
    step(fresh, 4)
    longer.load_state_dict(short.state_dict())
    update_learning_rate(longer)
    for _ in range(9):
        assert longer.get_last_lr() == fresh.get_last_lr()
        assert longer.optimizer.param_groups[0]["lr"] == fresh.optimizer.param_groups[0]["lr"]
        step(longer, 1)
        step(fresh, 1)


def test_warmup_in_steps_becomes_the_tokens_of_those_steps(tmp_path: Path) -> None:
    before = np.array([0, 40, 95, 130, 200])
    for steps, tokens in ((2, 95), (9, 200), (0.5, 0.5), (0, 0)):
        args = TrainingArguments(str(tmp_path), warmup_steps=steps)
        with warmup_in_tokens(args, before):
            assert args.warmup_steps == tokens
        assert args.warmup_steps == steps
