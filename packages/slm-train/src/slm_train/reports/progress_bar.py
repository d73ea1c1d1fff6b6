"""What watches a run: the log, the accounts, the progress bar, and the signals that end it early."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slm_train.accounting import gradient_bytes, optimizer_bytes
from slm_train.run_record import append_metrics
from slm_train.time_budget import TimeBudget, TrainingTime


class MetricsLog(TrainerCallback):
    """Every logged step and every evaluation as a line of metrics.jsonl, with its second where the run has so many."""

    def __init__(self, folder: Path, time: TimeBudget | None = None):
        self.folder, self.time = folder, time

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs = given.get("logs") or {}
        if state.is_world_process_zero and "train_runtime" not in logs:
            second = {"seconds": self.time.seconds} if self.time else {}
            append_metrics(self.folder, {"step": state.global_step, **second, **logs})


class Accounts(TrainingTime):
    """Steps taken, seconds spent on them, and bytes of gradients and optimizer state."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients = self.optimizer = 0
        self.steps = 0

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        if not self.gradients:
            self.gradients = gradient_bytes(given["model"])

    def on_step_end(self, *_: Any, **given: Any) -> None:
        super().on_step_end()
        self.steps += 1
        if not self.optimizer:
            self.optimizer = optimizer_bytes(given["optimizer"])


class StopSignals(TrainerCallback):
    """SIGINT or SIGTERM: finish the step, save, stop. A second one stops at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for wanted in (signal.SIGINT, signal.SIGTERM):
            self._before[wanted] = signal.signal(wanted, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for wanted, handler in self._before.items():
            signal.signal(wanted, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()  # the next one has its usual effect

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.received:
            control.should_save = control.should_training_stop = True

    @property
    def exit_code(self) -> int:
        return 128 + self.received if self.received else 0


class Bar(TrainerCallback):
    """A progress bar on a terminal; elsewhere a line at each log. It counts ``tokens``, where a run knows how many it
    has, seconds, where it has so many, else steps."""

    def __init__(self, console: Console, tokens: int | None = None, time: TimeBudget | None = None):
        self.console, self.tokens, self.time = console, tokens, time
        unit = "tokens" if tokens else "seconds" if time else "steps"
        self.progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,} " + unit),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("", total=tokens or 0, loss="-")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        total = self.tokens or (int(self.time.limit) if self.time else state.max_steps)
        self.progress.update(self.task, total=total, completed=self._done(state))
        if state.is_world_process_zero:
            self.progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.update(self.task, completed=self._done(state))

    def _done(self, state: TrainerState) -> int:
        if self.tokens:
            return int(state.num_input_tokens_seen)
        return int(self.time.seconds) if self.time else state.global_step

    def _place(self, state: TrainerState) -> str:
        if self.time:
            return f"{state.global_step}, {self.time.seconds:,.0f} of {self.time.limit:,.0f} s"
        return f"{state.global_step}/{state.max_steps}" if state.max_steps else "0"  # the base, before there is a plan

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs = given.get("logs") or {}
        if "loss" in logs:
            self.progress.update(self.task, loss=f"{logs['loss']:.3f}")
        if state.is_world_process_zero and (not self.console.is_terminal or "eval_loss" in logs):
            self._line(state, logs)

    def _line(self, state: TrainerState, logs: dict[str, float]) -> None:
        if "eval_loss" in logs:
            loss, perplexity, bits = (logs[f"eval_{name}"] for name in ("loss", "perplexity", "bits_per_byte"))
            text = f"evaluation: loss {loss:.4f}, perplexity {perplexity:.2f}, {bits:.4f} bits per byte"
        elif "loss" in logs:
            text = f"loss {logs['loss']:.4f}, learning rate {logs['learning_rate']:.2e}"
            if "tokens" in logs:
                text += f", {logs['tokens']:,} tokens, {logs['tokens_per_second']:,.0f} a second"
        else:
            return
        self.console.print(f"step {self._place(state)}  {text}", highlight=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.stop()
