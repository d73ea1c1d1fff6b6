"""Learning-rate schedules that count tokens or time, and their rates after a run was lengthened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments

from slm_data import Ints
from slm_train.errors import TrainError


def follow_tokens(schedule: Any, tokens_before: Ints) -> None:
    """Make ``schedule``, built with the number of tokens as its length, count the tokens before each step.

    Raises TrainError for a schedule that is not a function of the step.
    """
    if not isinstance(schedule, LambdaLR):
        raise TrainError(
            f"--schedule_in tokens does not work with {type(schedule).__name__}; give --schedule_in steps, or another "
            "--lr_scheduler_type, such as cosine"
        )
    schedule.lr_lambdas = [_at_tokens(rate, tokens_before) for rate in schedule.lr_lambdas]


def follow_fraction(schedule: Any, fraction: Callable[[], float], length: int) -> None:
    """Make ``schedule``, built for ``length`` steps, follow the fraction of the run, from 0 to 1."""
    schedule.lr_lambdas = [_at_fraction(rate, fraction, length) for rate in schedule.lr_lambdas]


@contextmanager
def warmup_in_tokens(args: TrainingArguments, tokens_before: Ints) -> Iterator[None]:
    """Express ``args.warmup_steps`` in tokens within the block; a value below 1 stays a fraction of the run."""
    steps = args.warmup_steps
    if steps >= 1:
        args.warmup_steps = int(tokens_before[min(int(steps), len(tokens_before) - 1)])
    try:
        yield
    finally:
        args.warmup_steps = steps


def update_learning_rate(schedule: Any) -> None:
    """Recompute the learning rate of the current step: a checkpoint has that of its own, possibly shorter, schedule."""
    if isinstance(schedule, LambdaLR):
        factors = [rate(schedule.last_epoch) for rate in schedule.lr_lambdas]
        schedule._last_lr = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate


def _at_fraction(rate: Callable[[int], float], fraction: Callable[[], float], length: int) -> Callable[[int], float]:
    return lambda _: rate(int(fraction() * length))


def _at_tokens(rate: Callable[[int], float], tokens_before: Ints) -> Callable[[int], float]:
    def at_step(step: int) -> float:
        return rate(int(tokens_before[min(step, len(tokens_before) - 1)]))

    return at_step
