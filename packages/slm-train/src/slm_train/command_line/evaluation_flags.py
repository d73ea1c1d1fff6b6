"""Flags that ``--patience``, ``--keep_best`` and ``--sample_every`` contradict, and the metric of the best model."""

from __future__ import annotations

from collections.abc import Collection

from slm_train.arguments import SlmTrainingArguments
from slm_train.command_line.flag_choices import choose_from
from slm_train.errors import TrainError, shown
from slm_train.options.budget import BudgetOptions
from slm_train.options.run import RunOptions

_LOSS_NAMES = {"loss", "eval_loss"}
_METRICS = ("loss", "perplexity", "bits_per_byte")  # figures of an evaluation that compare models


def check_evaluation_flags(
    run: RunOptions, training: SlmTrainingArguments, budget: BudgetOptions | None, explicit_flags: Collection[str]
) -> None:
    """Raise TrainError for flags that contradict each other."""
    if run.sample_every and (training.fsdp or training.deepspeed):
        raise TrainError(
            "--sample_every does not work with --fsdp or --deepspeed, where no process has all the weights; leave it "
            "out: the texts before and after training remain"
        )
    if run.keep_best:
        _check_keep_best(training)
    _check_metric(training, explicit_flags)
    if run.patience is not None or run.keep_best:
        _check_evaluations("--keep_best" if run.keep_best else "--patience", training, budget, explicit_flags)


def _check_metric(training: SlmTrainingArguments, explicit_flags: Collection[str]) -> None:
    """Raise TrainError for a metric that evaluations here do not have, or for keeping its largest value."""
    metric = training.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in _METRICS:
        raise TrainError(
            f"--metric_for_best_model {shown(metric)} is not a metric of an evaluation here: "
            f"{choose_from(metric, _METRICS)}"
        )
    if "greater_is_better" in explicit_flags and training.greater_is_better:
        raise TrainError(f"--greater_is_better keeps the worst model by {metric}; leave it out")
    training.greater_is_better = None if metric is None else False  # transformers: true for a name not ending in loss


def _check_keep_best(training: SlmTrainingArguments) -> None:
    if training.load_best_model_at_end:
        raise TrainError("--keep_best and --load_best_model_at_end both choose the final weights; give one of them")
    if training.deepspeed:
        raise TrainError(
            "--keep_best does not work with --deepspeed, where no process has all the weights; give "
            "--load_best_model_at_end, or --fsdp"
        )


def _check_evaluations(
    flag: str, training: SlmTrainingArguments, budget: BudgetOptions | None, explicit_flags: Collection[str]
) -> None:
    metric = training.metric_for_best_model
    if "metric_for_best_model" in explicit_flags and metric not in _LOSS_NAMES:
        raise TrainError(
            f"{flag} compares evaluations by their loss, not by --metric_for_best_model {metric}; leave one of them out"
        )
    if budget and "eval_interval" in explicit_flags and not budget.eval_interval:
        raise TrainError(f"{flag} needs evaluations during training; give a positive --eval_interval, or leave it out")
    if not budget and "eval_strategy" in explicit_flags and training.eval_strategy == "no":
        raise TrainError(f"{flag} needs evaluations during training; leave out --eval_strategy no")
    if not budget and training.eval_steps is not None and not training.eval_steps > 0:
        raise TrainError(f"--eval_steps {training.eval_steps:g} must be above 0")
