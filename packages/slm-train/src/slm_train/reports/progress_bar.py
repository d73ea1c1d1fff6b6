"""Progress of training: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slm_train.loop.time_budget import TimeBudget


class ProgressBar(TrainerCallback):
    """A bar on a terminal; elsewhere, a line for each log.

    It counts ``tokens`` if the run has a fixed number of them, seconds if the run has a time budget, else steps.
    """

    def __init__(self, console: Console, tokens: int | None = None, time_budget: TimeBudget | None = None):
        self.console, self.tokens, self.time_budget = console, tokens, time_budget
        unit = "tokens" if tokens else "seconds" if time_budget else "steps"
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
        # The number of steps is known only now: the Trainer computes it from the length of the data.
        total = self.tokens or (int(self.time_budget.limit) if self.time_budget else state.max_steps)
        self.progress.update(self.task, total=total, completed=self._completed(state))
        if state.is_world_process_zero:
            self.progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.update(self.task, completed=self._completed(state))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        logs = named.get("logs") or {}
        if "loss" in logs:
            self.progress.update(self.task, loss=f"{logs['loss']:.3f}")
        if state.is_world_process_zero and (not self.console.is_terminal or "eval_loss" in logs):
            self._print_line(state, logs)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.stop()

    def _completed(self, state: TrainerState) -> int:
        if self.tokens:
            return int(state.num_input_tokens_seen)
        return int(self.time_budget.seconds) if self.time_budget else state.global_step

    def _position(self, state: TrainerState) -> str:
        if self.time_budget:
            return f"{state.global_step}, {self.time_budget.seconds:,.0f} of {self.time_budget.limit:,.0f} s"
        # The base model is evaluated before the number of steps is known.
        return f"{state.global_step}/{state.max_steps}" if state.max_steps else "0"

    def _print_line(self, state: TrainerState, logs: dict[str, float]) -> None:
        if "eval_loss" in logs:
            loss, perplexity, bits = (logs[f"eval_{name}"] for name in ("loss", "perplexity", "bits_per_byte"))
            text = f"evaluation: loss {loss:.4f}, perplexity {perplexity:.2f}, {bits:.4f} bits per byte"
        elif "loss" in logs:
            text = f"loss {logs['loss']:.4f}, learning rate {logs['learning_rate']:.2e}"
            if "tokens" in logs:
                text += f", {logs['tokens']:,} tokens, {logs['tokens_per_second']:,.0f} tokens per second"
        else:
            return
        self.console.print(f"step {self._position(state)}  {text}", highlight=False)
