from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from slm_train.errors import UserError
from slm_train.schedule import by_tokens, rate_of_now, warmup_in_tokens


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)


def rates(kind: str, length: int, warmup: int, steps: int) -> list[float]:
    schedule = get_scheduler(kind, optimizer(), num_warmup_steps=warmup, num_training_steps=length)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_schedule_in_tokens_has_the_rate_of_the_tokens_before_each_step(kind: str) -> None:
    before = np.array([0, 40, 95, 130, 200])
    by_token = rates(kind, 200, 50, 200)
    schedule = get_scheduler(kind, optimizer(), num_warmup_steps=50, num_training_steps=200)
    by_tokens(schedule, before)
    for tokens in before[:-1]:
        assert schedule.get_last_lr()[0] == by_token[tokens]
        schedule.optimizer.step()
        schedule.step()


def test_a_run_made_longer_has_the_rates_of_the_longer_one() -> None:
    short = get_scheduler("linear", optimizer(), num_warmup_steps=0, num_training_steps=4)
    for _ in range(3):
        short.optimizer.step()
        short.step()
    longer = get_scheduler("linear", optimizer(), num_warmup_steps=0, num_training_steps=9)
    longer.load_state_dict(short.state_dict())
    rate_of_now(longer)
    wanted = rates("linear", 9, 0, 4)[3]
    assert longer.get_last_lr()[0] == wanted
    assert longer.optimizer.param_groups[0]["lr"] == wanted


def test_a_schedule_that_does_not_count_is_refused() -> None:
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer())
    with pytest.raises(UserError, match="--schedule_in tokens does not go with ReduceLROnPlateau"):
        by_tokens(schedule, np.array([0, 1]))


@pytest.mark.parametrize("kind", ["linear", "cosine", "cosine_with_restarts", "polynomial", "warmup_stable_decay"])
@pytest.mark.parametrize("tokens", [True, False])
def test_a_longer_run_has_its_own_rates_after_a_shorter_one(kind: str, tokens: bool) -> None:
    def schedule(length: int, before: list[int]) -> Any:
        more = {"num_decay_steps": length // 3} if kind == "warmup_stable_decay" else None
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        made: Any = get_scheduler(kind, optimizer, 5, length, more)
        if tokens:
            by_tokens(made, np.array(before))
        return made

    def step(made: Any, count: int) -> None:
        for _ in range(count):
            made.optimizer.step()
            made.step()

    before = list(range(0, 130, 9)) if tokens else list(range(14))
    short, longer, fresh = (schedule(before[n], before[: n + 1]) for n in (4, 13, 13))
    step(short, 4)
    step(fresh, 4)
    longer.load_state_dict(short.state_dict())
    rate_of_now(longer)
    for _ in range(9):
        assert longer.get_last_lr() == fresh.get_last_lr()
        assert longer.optimizer.param_groups[0]["lr"] == fresh.optimizer.param_groups[0]["lr"]
        step(longer, 1)
        step(fresh, 1)


def test_warm_up_of_steps_is_that_of_their_tokens(tmp_path: Path) -> None:
    before = np.array([0, 40, 95, 130, 200])
    for given, tokens in ((2, 95), (9, 200), (0.5, 0.5), (0, 0)):
        args = TrainingArguments(str(tmp_path), warmup_steps=given)
        with warmup_in_tokens(args, before):
            assert args.warmup_steps == tokens
        assert args.warmup_steps == given
