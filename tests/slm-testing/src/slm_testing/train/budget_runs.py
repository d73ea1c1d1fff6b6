"""Trainers of both flows on the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from slm_data import load_corpus
from slm_testing.train.tiny_runs import Tiny
from slm_train.arguments import Arguments
from slm_train.checkpoints.step_checkpoint import StepCheckpoint
from slm_train.command_line.parsing import parse_arguments
from slm_train.data.budget_plan import make_plan
from slm_train.data.rows import make_rows
from slm_train.loop.budget_trainer import BudgetTrainer
from slm_train.loop.trainer import SlmTrainer
from slm_train.model.base_model import find_base_model
from slm_train.model.model_building import build_model


def dynamic(tiny: Tiny, output_dir: Path, *more: str) -> list[str]:
    """Return a command line of ``slm-train dynamic``; later flags take precedence."""
    settings = {"target_tokens_per_step": "200", "max_tokens_per_micro_batch": "128", "log_interval": "1"}
    overridden = {word.removeprefix("--") for word in more if word.startswith("--")}
    words = [word for name, value in settings.items() if name not in overridden for word in (f"--{name}", value)]
    flags = tiny.flags(output_dir, *words, *more)
    for name in ("--logging_steps", "--per_device_train_batch_size"):
        if name.removeprefix("--") not in overridden and name in flags:
            position = flags.index(name)
            del flags[position : position + 2]
    return ["dynamic", *flags]


def trainer_of(
    tiny: Tiny, folder: Path, *more: str, printed: list[str] | None = None, steps: str = "1"
) -> BudgetTrainer:
    """Return a trainer over the tiny texts, without dropout, and with adapters that are not zero.

    The lines that it prints are added to ``printed``.
    """
    flags = dynamic(tiny, folder, "--max_steps", steps, "--lora_dropout", "0", "--max_grad_norm", "0", *more)
    return make_trainer(flags, folder, [] if printed is None else printed, exactly)


def exactly(model: torch.nn.Module) -> None:
    """Switch dropout off, and make adapters non-zero: zeros would make other gradients zero as well."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "butterfly_" in name or "oft_R" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def make_trainer(
    argv: Sequence[str], folder: Path, printed: list[str], prepare: Callable[[torch.nn.Module], None] | None = None
) -> BudgetTrainer:
    """Return the trainer of a command line of ``slm-train dynamic``.

    Args:
        argv: The command line.
        folder: For its checkpoints.
        printed: Gets the lines that the trainer prints.
        prepare: Is called with the model before the trainer gets it.
    """
    arguments: Arguments = parse_arguments(argv)
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    rows = make_rows(arguments, corpus, base, lambda _: None)
    plan = make_plan(arguments, base, rows, lambda _: None)
    assert plan
    assert arguments.budget
    torch.manual_seed(0)
    model: Any = build_model(arguments, base)
    if prepare:
        prepare(model)
    folder.mkdir(exist_ok=True)
    return BudgetTrainer(
        plan=plan,
        budget=arguments.budget,
        checkpoint=StepCheckpoint(folder, {}, printed.append),
        state=None,
        print_line=printed.append,
        model=model,
        args=arguments.training,
        rows=rows.train,
        eval_rows=rows.validation,
        processing_class=base.tokenizer,
        fused_loss=arguments.run.fused_loss,
    )


def trainer_flow_of(tiny: Tiny, folder: Path, *more: str) -> SlmTrainer:
    """Return a trainer of the other flow over the tiny texts, as the command line makes it."""
    arguments = parse_arguments(tiny.flags(folder, *more))
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    rows = make_rows(arguments, corpus, base, lambda _: None)
    return SlmTrainer(
        model=build_model(arguments, base),
        args=arguments.training,
        rows=rows.train,
        eval_rows=rows.validation,
        processing_class=base.tokenizer,
        fused_loss=arguments.run.fused_loss,
    )


class GradientRecorder(TrainerCallback):
    """Records the gradients of each step, in float64 by name, before the optimizer takes it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: object, **named: Any) -> None:
        self.steps.append(gradients_of(named["model"]))


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients of ``model`` in float64, by name."""
    return {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(trainer: BudgetTrainer) -> list[dict[str, torch.Tensor]]:
    """Train with ``trainer``, and return the gradients of each step."""
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    return recorder.steps
