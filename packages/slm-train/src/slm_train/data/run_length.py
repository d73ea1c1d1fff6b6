"""The number of epochs of a run whose length the user did not set: about a hundred optimizer steps."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

from slm_data import RowDataset
from slm_train.arguments import Arguments
from slm_train.data.rows import PrintLine, Rows, optimizer_steps
from slm_train.data.wording import count
from slm_train.errors import TrainError

TARGET_STEPS = 100
MAX_EPOCHS = 10


def choose_run_length(
    arguments: Arguments, rows: Rows, recorded: dict[str, Any] | None, print_line: PrintLine
) -> Arguments:
    """Return the options with a number of epochs, if no flag limits the length of the run.

    Args:
        arguments: The options of the run.
        rows: Its rows.
        recorded: The run.json of the run that is resumed, which keeps its epochs.
        print_line: Prints a line, with the reason for the number.
    """
    _check_batches(arguments, rows)
    # --max_minutes and --streaming come with a positive max_steps.
    if "num_train_epochs" in arguments.explicit_flags or arguments.training.max_steps > 0:
        return arguments
    assert isinstance(rows.train, RowDataset)
    epochs = _recorded_epochs(recorded)
    if epochs is None:
        steps = _steps_per_epoch(arguments, rows, rows.train)
        epochs = float(epochs_of_about_100_steps(steps))
        print_line(_describe(rows.train, steps, int(epochs), is_plan=arguments.budget is not None))
    else:
        print_line(f"{count(epochs, 'epoch')}, as the run that is resumed (--num_train_epochs)")
    training = copy.copy(arguments.training)
    training.num_train_epochs = epochs
    return replace(arguments, training=training)


def _check_batches(arguments: Arguments, rows: Rows) -> None:
    """Raise TrainError if ``--dataloader_drop_last`` drops every batch: transformers would train nothing."""
    training = arguments.training
    size = training.train_batch_size * training.world_size
    if not training.dataloader_drop_last or arguments.budget or not isinstance(rows.train, RowDataset):
        return
    if len(rows.train) < size:
        raise TrainError(
            f"--dataloader_drop_last leaves nothing to train on: there are {len(rows.train):,} rows, and a batch has "
            f"{size:,}; give a smaller --per_device_train_batch_size"
        )


def epochs_of_about_100_steps(steps_per_epoch: int) -> int:
    """Return the whole number of epochs, from 1 to 10, whose steps are closest to a hundred."""
    return max(1, min(MAX_EPOCHS, round(TARGET_STEPS / max(1, steps_per_epoch))))


def _steps_per_epoch(arguments: Arguments, rows: Rows, train: RowDataset) -> int:
    """Return the optimizer steps of an epoch; in the token-budget loop, whose plan is made later, nearly so."""
    if arguments.budget:
        return max(1, math.ceil(train.plan.predicted_tokens / arguments.budget.target_tokens_per_step))
    one_epoch = copy.copy(arguments.training)
    one_epoch.num_train_epochs = 1
    return optimizer_steps(replace(arguments, training=one_epoch), rows)


def _recorded_epochs(recorded: dict[str, Any] | None) -> float | None:
    """Return the epochs of the resumed run; None if there is none, or if it was limited by steps or by time."""
    settings: dict[str, Any] = (recorded or {}).get("arguments", {})
    if "num_train_epochs" not in settings or settings.get("max_steps", -1) > 0:
        return None
    return float(settings["num_train_epochs"])


def _describe(train: RowDataset, steps: int, epochs: int, *, is_plan: bool) -> str:
    documents, about = train.store.counts.documents, "about " if is_plan else ""
    limit = " at most" if epochs == MAX_EPOCHS and steps * epochs < TARGET_STEPS else ""
    return (
        f"{count(documents, 'document')} {'is' if documents == 1 else 'are'} {about}{count(steps, 'step')} an epoch:"
        f"{limit} {count(epochs, 'epoch')}, {about}{count(steps * epochs, 'step')} (--num_train_epochs)"
    )
