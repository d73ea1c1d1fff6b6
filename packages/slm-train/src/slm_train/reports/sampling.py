"""Text samples during training (``--sample_every``)."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slm_train.hardware.synchronization import synchronize
from slm_train.loop.time_budget import TrainingTime
from slm_train.loop.trainer import SlmTrainer
from slm_train.model.chat_format import ChatFormat
from slm_train.reports.loggers.samples import report_samples
from slm_train.reports.text_samples import continue_prompts
from slm_train.run_folder.metrics_file import append_metrics


class Sampling(TrainerCallback):
    """Continues ``prompts`` every ``every`` steps: on the terminal, in metrics.jsonl and in the active loggers.

    Only the first process samples. Training is not affected: neither its random state, nor the time that it counts.
    """

    def __init__(
        self,
        trainer: SlmTrainer,
        console: Console,
        folder: Path,
        every: int,
        prompts: list[str],
        chat: ChatFormat | None = None,
    ):
        self.trainer, self.console, self.folder, self.every = trainer, console, folder, every
        self.prompts, self.chat = prompts, chat

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Before the checkpoint of this step is written: a run that is resumed from it does not sample here again.
        if state.global_step % self.every:
            return
        self.trainer.check_finite(is_saved=True)  # nothing can be sampled from probabilities that are NaN
        if not state.is_world_process_zero:
            return
        synchronize(args.device)  # the steps before are training
        start = time.perf_counter()
        model: Any = self.trainer.model
        tokenizer: Any = self.trainer.processing_class
        samples = continue_prompts(model, tokenizer, self.prompts, self.chat)
        append_metrics(self.folder, {"step": state.global_step, "samples": samples})
        callbacks = self.trainer.callback_handler.callbacks
        report_samples(callbacks, state.global_step, samples)
        for sample in samples:
            self.console.print(describe_sample(state.global_step, sample))
        seconds = time.perf_counter() - start
        for callback in callbacks:
            if isinstance(callback, TrainingTime):
                callback.exclude(seconds)


def describe_sample(step: int, sample: dict[str, str]) -> Text:
    """Return a sample as one paragraph: step, prompt (dimmed), continuation."""
    continuation = sample["text"].removeprefix(sample["prompt"])
    text = Text(f"step {step}  ")
    text.append(_on_one_line(sample["prompt"]), style="dim")
    return text.append(_on_one_line(continuation))


def _on_one_line(text: str) -> str:
    """Return ``text`` with each line break, and the spaces around it, as one space."""
    return re.sub(r"\s*\n\s*", " ", text)
