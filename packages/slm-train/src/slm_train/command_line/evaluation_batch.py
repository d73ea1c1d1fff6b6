"""The default size of an evaluation batch."""

from __future__ import annotations

from collections.abc import Collection

from slm_train.arguments import SlmTrainingArguments
from slm_train.options.budget import BudgetOptions
from slm_train.options.rows import DEFAULT_BLOCK_SIZE, RowOptions


def limit_evaluation_batch(
    training: SlmTrainingArguments, rows: RowOptions, budget: BudgetOptions | None, explicit_flags: Collection[str]
) -> None:
    """Make evaluation batches no larger than those of training by default, so that what trains can be evaluated."""
    if "per_device_eval_batch_size" in explicit_flags:
        return
    size = training.per_device_train_batch_size
    if budget and "per_device_train_batch_size" not in explicit_flags:
        size = budget.micro_batch_tokens // (rows.block_size or DEFAULT_BLOCK_SIZE)
    training.per_device_eval_batch_size = max(1, min(training.per_device_eval_batch_size, size))
