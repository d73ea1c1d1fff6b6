"""Learning-rate schedules that count tokens, and that go on in a longer run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments

from slm_data import Ints
from slm_train.errors import UserError


def by_tokens(schedule: Any, tokens_before: Ints) -> None:
    """Let ``schedule``, made for as many units as the run has tokens, count the tokens before each step."""
    if not isinstance(schedule, LambdaLR):
        raise UserError(
            f"--schedule_in tokens does not go with {type(schedule).__name__}; give --schedule_in steps, or another "
            "--lr_scheduler_type, such as cosine"
        )
    schedule.lr_lambdas = [_of_tokens(rate, tokens_before) for rate in schedule.lr_lambdas]


def by_share(schedule: Any, share: Callable[[], float], length: int) -> None:
    """Let ``schedule``, made for ``length`` steps, follow ``share`` of the run, from 0 to 1, whatever the steps."""
    schedule.lr_lambdas = [_of_share(rate, share, length) for rate in schedule.lr_lambdas]


@contextmanager
def warmup_in_tokens(args: TrainingArguments, tokens_before: Ints) -> Iterator[None]:
    """``warmup_steps`` of ``args`` as the tokens of so many steps, for a schedule that counts tokens. A share of the
    run, below 1, stays one."""
    steps = args.warmup_steps
    if steps >= 1:
        args.warmup_steps = int(tokens_before[min(int(steps), len(tokens_before) - 1)])
    try:
        yield
    finally:
        args.warmup_steps = steps


def rate_of_now(schedule: Any) -> None:
    """Set the rate that ``schedule`` has where it stands: a checkpoint's is of a run that may have been shorter."""
    if isinstance(schedule, LambdaLR):
        shares = [rate(schedule.last_epoch) for rate in schedule.lr_lambdas]
        schedule._last_lr = [base * share for base, share in zip(schedule.base_lrs, shares, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate


def _of_share(rate: Callable[[int], float], share: Callable[[], float], length: int) -> Callable[[int], float]:
    return lambda _: rate(int(share() * length))


def _of_tokens(rate: Callable[[int], float], tokens_before: Ints) -> Callable[[int], float]:
    def at(step: int) -> float:
        return rate(int(tokens_before[min(step, len(tokens_before) - 1)]))

    return at
