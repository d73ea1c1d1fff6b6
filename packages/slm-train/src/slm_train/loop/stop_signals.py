"""Stopping a run on SIGINT or SIGTERM, after the current step."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopSignals(TrainerCallback):
    """On SIGINT or SIGTERM, finish the step, save, and stop. A second signal has its usual effect at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()  # restores the usual handlers

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.received:
            control.should_save = control.should_training_stop = True

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as a shell reports it; 0 without one."""
        return 128 + self.received if self.received else 0
