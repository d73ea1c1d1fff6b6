"""The summary of a run before training: its size, and an estimate of how long it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from slm_data import RowCollator, RowDataset
from slm_train.hardware.out_of_memory import is_out_of_memory
from slm_train.loop.trainer import SlmTrainer, padding_id
from slm_train.losses.evaluation_loss import EvaluationLoss
from slm_train.losses.fused_loss import loss_context
from slm_train.reports.durations import rough_time
from slm_train.time_estimate.remaining_work import remaining_work
from slm_train.time_estimate.step_timing import RunTimes, estimate_times
from slm_train.time_estimate.timed_model import TimedModel
from slm_train.training_run import Run

_NAME_COLUMN = 16  # characters


def show_run_summary(console: Console, current: Run, trainer: SlmTrainer) -> None:
    """Print the size of a run, and the time that it will take, which is measured on the model before it is wrapped.

    Every process must call this: all of them time their own batches.
    """
    print_summary(console, current, _times_of(current, trainer))


def _times_of(current: Run, trainer: SlmTrainer) -> RunTimes | None:
    collator: Any = trainer.data_collator
    timed = TimedModel(
        trainer.model, current.arguments.training, collator, trainer.loss_context, trainer.evaluation_loss
    )
    try:
        return estimate_run(current, timed)
    except (RuntimeError, MemoryError) as error:
        # The token-budget loop makes its micro-batches smaller when memory runs out; the Trainer cannot.
        if not (current.plan and is_out_of_memory(error)):
            raise
        return None


def time_model(current: Run, model: Any) -> RunTimes | None:
    """Estimate the time of a run with ``model``, which no trainer has been made for."""
    arguments = current.arguments
    training = arguments.training
    collator = RowCollator(padding_id(current.base.tokenizer), current.rows.train.packing == "best_fit")
    context = loss_context(model, training, arguments.run.fused_loss)
    return estimate_run(
        current, TimedModel(model, training, collator, context, EvaluationLoss.fitting(model, training))
    )


def estimate_run(current: Run, timed: TimedModel) -> RunTimes | None:
    """Estimate the time of what remains of a run; None if it is unknown or too short to be timed."""
    arguments, start = current.arguments, current.start
    if arguments.budget:
        multiple = arguments.budget.length_multiple(arguments.training.torch_compile)
        timed = replace(timed, collate=replace(timed.collate, multiple=multiple))
    work = remaining_work(
        arguments,
        current.rows,
        current.plan,
        first_step=start.step,
        steps=current.steps,
        is_evaluated=bool(start.record and "before" in start.record["evaluation"]),
    )
    budget = current.time_budget
    return estimate_times(
        timed, arguments, work, current.rows.evaluated, budget.limit - budget.seconds if budget else None
    )


def print_summary(console: Console, current: Run, times: RunTimes | None) -> None:
    """Print the size of a run and the estimate of its duration."""
    console.print()
    for name, text in _lines(current, times):
        console.print(f"[bold]{name:<{_NAME_COLUMN}}[/]{text}")
    console.print()


def _lines(current: Run, times: RunTimes | None) -> list[tuple[str, str]]:
    arguments, evaluated = current.arguments, current.rows.evaluated.plan
    training, total = arguments.training, current.rows.validation.plan.tokens
    share = f" of {total:,}" if evaluated.tokens < total else ""
    schedule = str(getattr(training.lr_scheduler_type, "value", training.lr_scheduler_type))
    lines = [
        ("training", _training_text(current)),
        ("steps", _steps_text(current)),
        ("learning rate", f"{training.learning_rate:.2g}, {schedule}"),
        ("evaluation", f"{_plural(len(evaluated), 'row')}, {evaluated.tokens:,}{share} tokens"),
    ]
    time = _time_text(current, times)
    return [*lines, ("time", time)] if time else lines


def _training_text(current: Run) -> str:
    train, training = current.rows.train, current.arguments.training
    if not isinstance(train, RowDataset):
        return f"rows of {train.block_size} tokens, streamed"
    text = f"{_plural(len(train), 'row')}, {train.plan.tokens:,} tokens"
    if current.time_budget is None:
        text += f", {_epochs_text(current, len(train))}"
    return text if training.world_size == 1 else f"{text}, {training.world_size} processes"


def _epochs_text(current: Run, rows: int) -> str:
    training = current.arguments.training
    if current.plan:
        epochs = current.plan.progress(len(current.plan) - 1)
    elif training.max_steps > 0:
        epochs = current.steps * _rows_per_step(current) / rows
    else:
        epochs = training.num_train_epochs
    if epochs < 0.1:
        return f"{100 * epochs:.2g} % of an epoch"
    return "1 epoch" if round(epochs, 2) == 1 else f"{epochs:.3g} epochs"


def _rows_per_step(current: Run) -> int:
    training = current.arguments.training
    return int(training.train_batch_size * training.gradient_accumulation_steps * training.world_size)


def _steps_text(current: Run) -> str:
    budget, taken = current.arguments.budget, current.start.step
    size = f"{budget.target_tokens_per_step:,} tokens" if budget else _plural(_rows_per_step(current), "row")
    if current.time_budget:
        return f"as many as {current.time_budget.limit / 60:g} minutes allow, of {size}"
    resumed = f", {taken:,} of them taken" if taken else ""
    return f"{current.steps:,} of {size}{resumed}"


def _time_text(current: Run, times: RunTimes | None) -> str:
    """Return the estimate; empty for a run without one, which is short or cannot be timed."""
    if times is None:
        limit = current.time_budget
        return f"{rough_time(limit.limit - limit.seconds)} of training" if limit else ""
    if not times.evaluations:
        return f"about {rough_time(times.total)}"
    each = "each of " if times.evaluations > 1 else ""
    number = _plural(times.evaluations, "evaluation")
    parts = f"training {rough_time(times.training)}, {each}{number} {rough_time(times.evaluation)}"
    return f"about {rough_time(times.total)}: {parts}"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
