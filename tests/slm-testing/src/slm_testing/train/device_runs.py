"""Runs of slm-train on a device, from a base model with the built-in texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from slm_data import RowCollator, load_corpus
from slm_train.checkpoints.step_checkpoint import StepCheckpoint
from slm_train.command_line.parsing import parse_arguments
from slm_train.data.rows import make_rows
from slm_train.loop.budget_trainer import BudgetTrainer
from slm_train.model.base_model import find_base_model
from slm_train.reports.memory_estimate import MemoryEstimate, estimate_memory


class NoCheckpoint(StepCheckpoint):
    """Writes no checkpoint, not even at the end of a run."""

    def save(self, *_: Any) -> None:
        pass


def device_flags(base: Path, output_dir: Path, device: torch.device, **settings: object) -> list[str]:
    """Return flags of a short run on ``device`` in float32; ``settings`` are further flags, which take precedence."""
    flags: dict[str, object] = {
        "model_path": base,
        "dataset": "sample",
        "max_eval_samples": 4,
        "output_dir": output_dir,
        "token_cache": output_dir.parent / "tokens",
        "prompt": "",
        "bf16": "false",
        "report_to": "none",
    }
    if device.type == "cpu":
        flags |= {"use_cpu": "true", "threads": 1}
    return [word for name, value in (flags | settings).items() for word in (f"--{name}", str(value))]


def estimate_run(argv: Sequence[str]) -> MemoryEstimate:
    """Return the memory that a dry run of a command line estimates."""
    arguments = parse_arguments(argv)
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    return estimate_memory(arguments, base, make_rows(arguments, corpus, base, lambda _: None))[0]


class LossRecorder(TrainerCallback):
    """Records the mean loss of each step, of a trainer that logs every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, *_: object, logs: dict[str, Any] | None = None, **__: object) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def reference_step(trainer: BudgetTrainer, model: torch.nn.Module) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and the gradients of the first step, of all its rows one by one, by ``model`` in float64.

    Args:
        trainer: The trainer, whose plan and rows are used.
        model: A float64 copy of its model on the CPU, whose gradients are left behind.
    """
    rows, plan = trainer.train_dataset, trainer.plan
    assert not isinstance(rows, torch.utils.data.IterableDataset)
    any_rows: Any = rows
    collate, tokens = RowCollator(0, any_rows.packing == "best_fit"), int(plan.tokens[0])
    total, any_model = 0.0, model
    call: Any = any_model
    for part in plan.micro_batches(0):
        for row in part.tolist():
            loss = call(**collate([any_rows[row]]), use_cache=False, num_items_in_batch=torch.tensor(tokens)).loss
            loss.backward()
            total += loss.item()
    return total, {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
