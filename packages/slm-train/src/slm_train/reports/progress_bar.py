"""Progress of training and evaluation: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slm_train.loop.time_budget import TimeBudget
from slm_train.reports.durations import clock_time
from slm_train.reports.progress_rate import EvaluatedTokens, ProgressRate

LINE_SECONDS = 30.0  # between lines where there is no terminal


@contextmanager
def progress_display(console: Console) -> Iterator[Progress]:
    """Return a display for bars, which is not started yet; after the block it is gone, also after an error.

    All bars of a run share it: rich allows only one live display at a time.
    """
    display = Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[position]}"),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]}", style="cyan"),
        console=console,
        expand=True,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        yield display
    finally:
        display.stop()


class ProgressBar(TrainerCallback):
    """Bars with rate and remaining time on a terminal; elsewhere a line for each log, and at least every 30 seconds.

    Training is counted in ``tokens`` if the run has a fixed number of them, in seconds if it has a time budget, else in
    steps. Evaluation is counted in tokens. An evaluation during training has a second bar below that of training.
    """

    def __init__(self, display: Progress, tokens: int | None = None, time_budget: TimeBudget | None = None):
        self.display, self.console, self.tokens, self.time_budget = display, display.console, tokens, time_budget
        self.unit = "tokens" if tokens else "s" if time_budget else "steps"
        self.training: TaskID | None = None
        self.rate = ProgressRate(0, 0)
        self.evaluating: TaskID | None = None
        self.evaluated: EvaluatedTokens | None = None
        self._last_line = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # The number of steps is known only now: the Trainer computes it from the length of the data.
        total = self.tokens or (int(self.time_budget.limit) if self.time_budget else state.max_steps)
        self.rate = ProgressRate(total, self._completed(state))
        self._last_line = time.perf_counter()
        if state.is_world_process_zero:
            self.training = self._add_task("training", self.rate, self.unit)
            self.display.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.rate.advance(self._completed(state))
        self._update(self.training, self.rate)
        if self._is_line_due(state):
            self._print(f"step {self._position(state)}{self._remaining()}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.rate.skip()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        loader: DataLoader[Any] = named["eval_dataloader"]
        if self.evaluated is None or self.evaluated.loader is not loader:
            self._begin_evaluation(loader, state)
        assert self.evaluated
        self.evaluated.add_batch()
        self._update(self.evaluating, self.evaluated)
        if self._is_line_due(state) and self.evaluated.completed < self.evaluated.total:
            self._print(f"evaluation: {_counted(self.evaluated, 'tokens')}{_left(self.evaluated)}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.evaluated = None
        self.rate.skip()
        if self.evaluating is not None:
            self._remove(self.evaluating, is_last=self.training is None)
            self.evaluating = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        logs = named.get("logs") or {}
        if "loss" in logs and self.training is not None:
            self.display.update(self.training, loss=f"loss {logs['loss']:.3f}")
        if state.is_world_process_zero and (not self.console.is_terminal or "eval_loss" in logs):
            self._print_logs(state, logs)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.training is None:
            return
        self._remove(self.training, is_last=True)
        self.training = None
        self._print(f"step {self._position(state)}  trained in {clock_time(self.rate.seconds)}")

    def _begin_evaluation(self, loader: DataLoader[Any], state: TrainerState) -> None:
        self.evaluated = EvaluatedTokens(loader)
        if self.training is None:
            self._last_line = time.perf_counter()
        if state.is_world_process_zero:
            self.evaluating = self._add_task("evaluating", self.evaluated, "tokens")
            self.display.start()

    def _add_task(self, description: str, rate: ProgressRate, unit: str) -> TaskID:
        position = _counted(rate, unit)
        texts: dict[str, Any] = {"position": position, "loss": "", "speed": "", "left": ""}
        return self.display.add_task(description, total=rate.total, completed=rate.completed, **texts)

    def _remove(self, task: TaskID, *, is_last: bool) -> None:
        if is_last:  # before its bar is removed: an empty display would leave a blank line
            self.display.stop()
        self.display.remove_task(task)

    def _update(self, task: TaskID | None, rate: ProgressRate) -> None:
        if task is None:
            return
        unit = self.unit if rate is self.rate else "tokens"
        # Seconds per second would be the rate of a time budget.
        speed = rate.speed(unit) if unit != "s" else ""
        left = f"{clock_time(rate.left)} left" if rate.left is not None else ""
        position = _counted(rate, unit)
        self.display.update(task, completed=rate.completed, position=position, speed=speed, left=left)

    def _completed(self, state: TrainerState) -> int:
        if self.tokens:
            return int(state.num_input_tokens_seen)
        return int(self.time_budget.seconds) if self.time_budget else state.global_step

    def _is_line_due(self, state: TrainerState) -> bool:
        is_silent = time.perf_counter() - self._last_line >= LINE_SECONDS
        return state.is_world_process_zero and not self.console.is_terminal and is_silent

    def _position(self, state: TrainerState) -> str:
        if self.time_budget:
            return f"{state.global_step}, {self.time_budget.seconds:,.0f} of {self.time_budget.limit:,.0f} s"
        # The base model is evaluated before the number of steps is known.
        return f"{state.global_step}/{state.max_steps}" if state.max_steps else "0"

    def _remaining(self) -> str:
        return "" if self.time_budget else _left(self.rate)

    def _print_logs(self, state: TrainerState, logs: dict[str, float]) -> None:
        if "eval_loss" in logs:
            loss, perplexity, bits = (logs[f"eval_{name}"] for name in ("loss", "perplexity", "bits_per_byte"))
            text = f"evaluation: loss {loss:.4f}, perplexity {perplexity:.2f}, {bits:.4f} bits per byte"
        elif "loss" in logs:
            text = f"loss {logs['loss']:.4f}, learning rate {logs['learning_rate']:.2e}"
            if "tokens" in logs:
                text += f", {logs['tokens']:,} tokens, {logs['tokens_per_second']:,.0f} tokens per second"
            text += self._remaining()
        else:
            return
        self._print(f"step {self._position(state)}  {text}")

    def _print(self, line: str) -> None:
        self._last_line = time.perf_counter()
        self.console.print(line, highlight=False)


def _counted(rate: ProgressRate, unit: str) -> str:
    return f"{rate.completed:,}/{rate.total:,} {unit}"


def _left(rate: ProgressRate) -> str:
    """Return the remaining time, to be appended to a line; nothing at the end."""
    return f", {clock_time(rate.left)} left" if rate.left else ""
