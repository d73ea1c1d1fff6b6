from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from slm_train.errors import UserError
from slm_train.schedule import by_tokens, rate_of_now


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
