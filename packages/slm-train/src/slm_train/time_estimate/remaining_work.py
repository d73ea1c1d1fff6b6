"""How much a run still has to compute: micro-batches, optimizer steps and evaluations of this process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slm_data import BudgetPlan, RowDataset
from slm_train.arguments import UNLIMITED_STEPS, Arguments
from slm_train.data.rows import Rows
from slm_train.loop.row_order import row_order

Ints = npt.NDArray[np.int64]
_STEPS = 64  # steps of a plan that are looked at


@dataclass(frozen=True)
class RemainingWork:
    """The work of this process. A slot is a token of a batch, padding included.

    Attributes:
        rows: Where the rows of ``batches`` are: the training rows, or for a stream those of the validation split.
        batches: Rows of micro-batches that represent all that remain, each ``[rows]``.
        slots: Slots of all remaining micro-batches.
        micro_batches: Their number.
        steps: Remaining optimizer steps.
        evaluation: Rows of the batches of one evaluation, each ``[rows]``.
        evaluations: Number of evaluations to come; None if it follows from the speed (``--max_minutes``).
    """

    rows: RowDataset
    batches: list[Ints]
    slots: float
    micro_batches: float
    steps: int
    evaluation: list[Ints]
    evaluations: int | None


def remaining_work(
    arguments: Arguments, rows: Rows, plan: BudgetPlan | None, *, first_step: int, steps: int, is_evaluated: bool
) -> RemainingWork:
    """Return the work from optimizer step ``first_step`` to the end.

    Args:
        arguments: The options of the run.
        rows: Its rows.
        plan: The plan of the token-budget loop, else None.
        first_step: The number of steps already taken.
        steps: The number of steps of the whole run.
        is_evaluated: Whether the evaluation before training has been made, by the run that is resumed.
    """
    training = arguments.training
    left = max(0, steps - first_step)
    train = rows.train if isinstance(rows.train, RowDataset) else rows.evaluated
    if plan:
        batches = _planned_batches(plan, first_step, training.process_index, training.world_size)
        share = _fraction_left(plan, first_step)
        slots = plan.slots * share / training.world_size
        count = (len(plan.micro_first) - 1) * share / training.world_size
    else:
        batches, lengths = _ordered_batches(train, arguments), train.plan.row_lengths
        count = left * training.gradient_accumulation_steps
        if training.max_steps <= 0:  # the last step of an epoch may have fewer micro-batches
            count = min(count, training.num_train_epochs * math.ceil(len(batches) / training.world_size))
        slots = count * float(np.mean([slots_of(lengths, batch) for batch in batches]))
    share_of_rows = np.arange(training.process_index, len(rows.evaluated), training.world_size)
    return RemainingWork(
        rows=train,
        batches=batches,
        slots=slots,
        micro_batches=count,
        steps=left,
        evaluation=_in_batches(share_of_rows, training.eval_batch_size),
        evaluations=_count_evaluations(arguments, first_step, steps, is_evaluated=is_evaluated),
    )


def slots_of(row_lengths: Ints, batch: Ints) -> int:
    """Return the tokens of a batch, padding included."""
    return len(batch) * int(row_lengths[batch].max())


def _planned_batches(plan: BudgetPlan, first_step: int, rank: int, ranks: int) -> list[Ints]:
    """Return this process's micro-batches of evenly spaced steps."""
    last = len(plan) - 1
    steps = sorted({round(step) for step in np.linspace(min(first_step, last), last, _STEPS)})
    return [batch for step in steps for batch in plan.share(step, rank, ranks)]


def _fraction_left(plan: BudgetPlan, first_step: int) -> float:
    before = plan.tokens_before
    return float(1 - before[min(first_step, len(plan))] / max(int(before[-1]), 1))


def _ordered_batches(rows: RowDataset, arguments: Arguments) -> list[Ints]:
    """Return the micro-batches of the first epoch."""
    order = np.fromiter(row_order(rows, arguments.training), np.int64, len(rows))
    return _in_batches(order, arguments.training.train_batch_size)


def _in_batches(rows: Ints, size: int) -> list[Ints]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _count_evaluations(arguments: Arguments, first_step: int, steps: int, *, is_evaluated: bool) -> int | None:
    """Return the number of evaluations before, during and after training, if nothing stops it early."""
    before = 0 if is_evaluated else 1
    ends_with_best: Any = arguments.training.load_best_model_at_end
    interval = _evaluation_interval(arguments, steps)
    if interval is None:
        return None
    during = int(steps / interval + 1e-6) - int(first_step / interval + 1e-6) if interval else 0
    is_last_in_training = during > 0 and abs(steps / interval - round(steps / interval)) < 1e-6
    return before + during + (0 if is_last_in_training and not ends_with_best else 1)


def _evaluation_interval(arguments: Arguments, steps: int) -> float | None:
    """Return the number of steps between evaluations; 0 for none, None if it is not known in advance."""
    training = arguments.training
    if arguments.budget:
        return arguments.budget.eval_interval
    strategy = str(getattr(training.eval_strategy, "value", training.eval_strategy))
    if strategy == "no":
        return 0
    if steps >= UNLIMITED_STEPS:
        return None
    if strategy == "epoch":
        return steps / max(1, math.ceil(training.num_train_epochs)) if training.max_steps <= 0 else None
    interval = float(training.eval_steps or training.logging_steps)
    return math.ceil(interval * steps) if interval < 1 else interval
