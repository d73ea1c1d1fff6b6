"""Estimating the duration of a run from a few timed batches, which leave no trace in the model.

Two micro-batches of the run are timed, forward and backward, after a smaller one that warms up; then a batch of the
evaluation. Their times are scaled by tokens, padding included. In a short run fewer rows are timed, so that timing
takes about a tenth of the run at most; a run that is shorter still is not timed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slm_data import RowDataset
from slm_train.arguments import Arguments
from slm_train.time_estimate.remaining_work import Ints, RemainingWork, slots_of
from slm_train.time_estimate.timed_model import TimedModel

_SHARE_OF_RUN = 0.1  # of the duration of the run, which timing may take
_COST = 3.0  # of timing, in micro-batches of training
_EVALUATION_COST = 0.35  # of a batch of evaluation, in micro-batches of training
_LEAST_SHARE = 0.1  # of the rows of a micro-batch: with fewer, a token takes longer
_SLOW_SECONDS = 10.0  # if a micro-batch takes longer, no second one is timed
_WARM_UP_SHARE = 0.25  # of the rows of a timed batch


@dataclass(frozen=True)
class RunTimes:
    """Estimated seconds of what remains: training, and each of ``evaluations`` evaluations."""

    training: float
    evaluation: float
    evaluations: int

    @property
    def total(self) -> float:
        """Seconds of training and all evaluations."""
        return self.training + self.evaluations * self.evaluation


def estimate_times(
    timed: TimedModel, arguments: Arguments, work: RemainingWork, evaluated: RowDataset, time_left: float | None
) -> RunTimes | None:
    """Time a few batches and return the estimate for the remaining ``work``; None if it is unknown or too short.

    Every process times its own share; nothing is exchanged. Loading, checkpoints and samples are not included.

    Args:
        timed: The model.
        arguments: The options of the run.
        work: What remains to be computed.
        evaluated: The rows of an evaluation.
        time_left: Remaining seconds of training with ``--max_minutes``.
    """
    training, share = arguments.training, _rows_share(work)
    # Sharded models cannot be run before they are wrapped, and compiling takes longer than any timing.
    is_wrapped_first = training.fsdp or training.deepspeed or training.torch_compile or training.n_gpu > 1
    if is_wrapped_first or share is None or not work.steps:
        return None
    with timed.without_trace():
        per_slot = _training_seconds_per_slot(timed, work, share)
        evaluation = _evaluation_seconds(timed, work, evaluated, share)
    step = work.slots / work.steps * per_slot + timed.optimizer_seconds()
    evaluations = work.evaluations
    if evaluations is None:
        evaluations = _evaluations_within(arguments, (time_left or step * work.steps) / step)
    return RunTimes(float(step * work.steps) if time_left is None else time_left, float(evaluation), evaluations)


def _rows_share(work: RemainingWork) -> float | None:
    """Return the share of the rows of a micro-batch to time; None if that would still be too much of the run."""
    size = work.micro_batches + _EVALUATION_COST * len(work.evaluation) * (work.evaluations or 2)
    share = min(1.0, _SHARE_OF_RUN * size / _COST)
    return share if share >= _LEAST_SHARE else None


def _training_seconds_per_slot(timed: TimedModel, work: RemainingWork, share: float) -> float:
    lengths = work.rows.plan.row_lengths
    batches = [_part(batch, share) for batch in _representative(work.batches, lengths)]
    timed.training_seconds(work.rows, _part(batches[0], _WARM_UP_SHARE))
    seconds, slots = 0.0, 0
    for batch in batches:
        seconds += timed.training_seconds(work.rows, batch)
        slots += slots_of(lengths, batch)
        if seconds > _SLOW_SECONDS:
            break
    return seconds / slots


def _evaluation_seconds(timed: TimedModel, work: RemainingWork, rows: RowDataset, share: float) -> float:
    if not work.evaluation:  # fewer rows than processes
        return 0.0
    lengths = rows.plan.row_lengths
    batch = _part(_representative(work.evaluation, lengths)[0], share)
    timed.evaluation_seconds(rows, batch[:1])
    seconds = timed.evaluation_seconds(rows, batch)
    return seconds / slots_of(lengths, batch) * sum(slots_of(lengths, each) for each in work.evaluation)


def _representative(batches: list[Ints], row_lengths: Ints) -> list[Ints]:
    """Return two batches: a quarter, and three quarters, of all tokens are in smaller ones."""
    sizes = np.array([slots_of(row_lengths, batch) for batch in batches])
    order = np.argsort(sizes, kind="stable")
    cumulative = np.cumsum(sizes[order])
    positions = np.searchsorted(cumulative, cumulative[-1] * np.array([0.25, 0.75]))
    return [batches[order[position]] for position in sorted(set(positions.tolist()))]


def _part(batch: Ints, share: float) -> Ints:
    return batch[: max(1, round(len(batch) * share))]


def _evaluations_within(arguments: Arguments, steps: float) -> int:
    """Return the number of evaluations of a run that has time for ``steps`` steps."""
    interval = float(arguments.training.eval_steps or arguments.training.logging_steps)
    during = 1 / interval if interval < 1 else steps / interval
    return 1 + max(1, round(during))
