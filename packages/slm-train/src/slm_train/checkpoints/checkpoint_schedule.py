"""When a run writes checkpoints: every so many steps, or as often as a share of its time allows."""

from __future__ import annotations

MAX_SHARE = 0.02  # of the training time, for the checkpoints of ``--checkpoint_interval auto``


class CheckpointSchedule:
    """Decides after each step whether a checkpoint is due.

    Without an interval, one is due as soon as all checkpoints and the next, which is expected to cost as much as the
    last, take at most ``MAX_SHARE`` of the training time; and the next one of the time since the last. The second
    condition spreads them evenly. The cost of the first is unknown: it is due after the first step.

    Args:
        interval: Steps between checkpoints; None to choose them by their cost.
        decides: Whether this process decides. Clocks differ, so without an interval only one process may.
    """

    def __init__(self, interval: int | None, *, decides: bool = True):
        self.interval, self.decides = interval, decides
        self._spent = self._expected = 0.0  # seconds
        self._last = 0.0  # training time at the last checkpoint

    @property
    def is_automatic(self) -> bool:
        """Whether checkpoints are chosen by their cost."""
        return self.interval is None

    def is_due(self, step: int, trained: float) -> bool:
        """Return whether a checkpoint is due after ``step``, counted from 1, and ``trained`` seconds of training."""
        if self.interval is not None:
            return step % self.interval == 0
        fits_in_total = self._spent + self._expected <= MAX_SHARE * trained
        return self.decides and fits_in_total and self._expected <= MAX_SHARE * (trained - self._last)

    def written(self, trained: float, spent: float) -> None:
        """Note that a checkpoint was written.

        Args:
            trained: Seconds of training so far.
            spent: Seconds that training has waited for all checkpoints so far.
        """
        self._expected, self._spent, self._last = spent - self._spent, spent, trained
