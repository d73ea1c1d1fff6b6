"""What watches a run: the log, the accounts, the progress bar, and the signals that end it early."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slm_train.accounting import gradient_bytes, optimizer_bytes
from slm_train.run_record import append_metrics


class MetricsLog(TrainerCallback):
    """Every logged step and every evaluation as a line of metrics.jsonl."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs = given.get("logs") or {}
        if state.is_world_process_zero and "train_runtime" not in logs:
            append_metrics(self.folder, {"step": state.global_step, **logs})


class Accounts(TrainerCallback):
    """Tokens trained on, seconds spent on them, and bytes of gradients and optimizer state."""

    def __init__(self) -> None:
        self.gradients = self.optimizer = 0
        self.seconds = 0.0
        self.steps = 0
        self._mark = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._mark = time.perf_counter()

    on_evaluate = on_save = on_train_begin  # time spent there is not training

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        if not self.gradients:
            self.gradients = gradient_bytes(given["model"])

    def on_step_end(self, *_: Any, **given: Any) -> None:
        now = time.perf_counter()
        self.seconds, self._mark = self.seconds + now - self._mark, now
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
    has, else steps."""

    def __init__(self, console: Console, tokens: int | None = None):
        self.console, self.tokens = console, tokens
        self.progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,} " + ("tokens" if tokens else "steps")),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("", total=tokens or 0, loss="-")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.update(self.task, total=self.tokens or state.max_steps, completed=self._done(state))
        if state.is_world_process_zero:
            self.progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.update(self.task, completed=self._done(state))

    def _done(self, state: TrainerState) -> int:
        return int(state.num_input_tokens_seen if self.tokens else state.global_step)

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
        self.console.print(f"step {state.global_step}/{state.max_steps}  {text}", highlight=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.stop()
