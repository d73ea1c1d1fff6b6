"""Evaluations during training for ``--patience`` and ``--keep_best``, where the user gave no interval."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

from transformers.trainer_utils import IntervalStrategy

from slm_train.arguments import Arguments

EVALUATIONS = 10  # during training: few enough to cost little, many enough to choose among


def schedule_evaluations(arguments: Arguments, steps: int, print_line: Callable[[str], None]) -> Arguments:
    """Return options with an interval of evaluations, if the run needs one and has none.

    ``steps`` is the number of optimizer steps of the run.
    """
    run = arguments.run
    if not (run.keep_best or run.patience is not None) or _has_interval(arguments):
        return arguments
    reason = "--keep_best" if run.keep_best else "--patience"
    interval: float = max(1, math.ceil(steps / EVALUATIONS))
    if arguments.budget:
        print_line(f"evaluating every {interval:,} steps, for {reason} (change it with --eval_interval)")
        return replace(arguments, budget=replace(arguments.budget, eval_interval=int(interval)))
    training = copy.copy(arguments.training)
    training.eval_strategy = IntervalStrategy.STEPS
    if "eval_steps" not in arguments.explicit_flags:
        training.eval_steps = interval if run.max_minutes is None else 1 / EVALUATIONS
    print_line(
        f"evaluating {_describe(training.eval_steps)}, for {reason} (change it with --eval_strategy and --eval_steps)"
    )
    return replace(arguments, training=training)


def _has_interval(arguments: Arguments) -> bool:
    if arguments.budget:
        return arguments.budget.eval_interval > 0
    return arguments.training.eval_strategy != IntervalStrategy.NO


def _describe(interval: float | None) -> str:
    assert interval
    return f"{1 / interval:.0f} times during training" if interval < 1 else f"every {interval:,.0f} steps"
