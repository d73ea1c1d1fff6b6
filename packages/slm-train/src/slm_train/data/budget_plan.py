"""The plan of a token-budget run: every step and micro-batch, fixed before training starts."""

from __future__ import annotations

from slm_data import BudgetPlan, RowDataset, TokenBudget, plan_budget
from slm_train.arguments import Arguments, SlmTrainingArguments
from slm_train.data.rows import PrintLine, Rows
from slm_train.errors import TrainError
from slm_train.model.base_model import BaseModel

MAX_PLANNED_ROWS = 10**8  # of all epochs: the plan is in memory as a whole


def make_plan(arguments: Arguments, base: BaseModel, rows: Rows, print_line: PrintLine) -> BudgetPlan | None:
    """Plan the whole run of the token-budget loop; None for a run of the Trainer.

    Raises DataError for a budget that cannot be met, and TrainError if rows, padded to a multiple, exceed the model's
    context.
    """
    options, training = arguments.budget, arguments.training
    if options is None:
        return None
    assert isinstance(rows.train, RowDataset)
    _check_size(training, rows.train)
    _check_padded_length(options.length_multiple(training.torch_compile), rows.train, base)
    slots = options.micro_batch_tokens
    if options.has_automatic_size:  # provisional: it is chosen once the model is loaded
        slots = max(slots, int(rows.train.plan.row_lengths.max()))
    budget = TokenBudget(options.target_tokens_per_step, slots, arguments.max_micro_batch_rows)
    plan = plan_budget(
        rows.train.plan,
        budget,
        seed=training.seed,
        epochs=training.num_train_epochs,
        max_steps=int(training.max_steps),
        ranks=training.world_size,
    )
    if not options.has_automatic_size:
        print_line(describe_plan(plan))
    return plan


def describe_plan(plan: BudgetPlan) -> str:
    """Return a line with the number of steps, how far they exceed their budget, and the padding."""
    mean, largest = plan.overshoot
    short = plan.tokens[plan.tokens < plan.budget.tokens]
    shorter = f"; {len(short):,} shorter, at the end of an epoch" if len(short) else ""
    epochs = int(plan.epoch[-1]) + 1
    noun = "epoch" if epochs == 1 else "epochs"
    return (
        f"plan: {epochs:,} {noun}, {len(plan):,} steps of {plan.budget.tokens:,} predicted tokens "
        f"(exceeded by {mean:,.0f} on average, at most {largest:,}{shorter}), {len(plan.micro_first) - 1:,} "
        f"micro-batches, {1 - plan.utilisation:.1%} padding"
    )


def _check_size(training: SlmTrainingArguments, rows: RowDataset) -> None:
    planned = int(training.num_train_epochs * len(rows))
    if training.max_steps < 1 and planned > MAX_PLANNED_ROWS:
        raise TrainError(
            f"--num_train_epochs {training.num_train_epochs:,g} makes a plan of {planned:,} rows, more than "
            f"{MAX_PLANNED_ROWS:,}; give fewer epochs, or --max_steps"
        )


def _check_padded_length(multiple: int, rows: RowDataset, base: BaseModel) -> None:
    longest = -(-int(rows.plan.row_lengths.max()) // multiple) * multiple
    if base.context_length and longest > base.context_length:
        raise TrainError(
            f"--pad_to_multiple_of {multiple} makes rows of {longest} tokens, but {base.name or 'the model'} has a "
            f"context of {base.context_length}; give a --block_size that it divides"
        )
