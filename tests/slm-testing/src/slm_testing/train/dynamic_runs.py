"""Runs of the token-budget loop on the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from slm_data import load_corpus
from slm_testing.train.tiny_runs import Tiny
from slm_train.arguments import Arguments
from slm_train.data import make_plan, make_rows
from slm_train.dynamic import BudgetTrainer
from slm_train.modes import build_model, find_base
from slm_train.parsing import parse
from slm_train.step_checkpoint import StepCheckpoint


def dynamic(tiny: Tiny, output_dir: Path, *more: str) -> list[str]:
    """A command line of ``slm-train dynamic``; later flags win."""
    settings = {"target_tokens_per_step": "200", "max_tokens_per_micro_batch": "128", "log_interval": "1"}
    given = {word.removeprefix("--") for word in more if word.startswith("--")}
    words = [word for name, value in settings.items() if name not in given for word in (f"--{name}", value)]
    flags = tiny.flags(output_dir, *words, *more)
    for name in ("--logging_steps", "--per_device_train_batch_size"):
        if name.removeprefix("--") not in given and name in flags:
            at = flags.index(name)
            del flags[at : at + 2]
    return ["dynamic", *flags]


def trainer_of(tiny: Tiny, folder: Path, *more: str, said: list[str] | None = None, steps: str = "1") -> BudgetTrainer:
    """A trainer over the tiny texts without dropout, and with adapters that do something."""
    arguments: Arguments = parse(
        dynamic(tiny, folder, "--max_steps", steps, "--lora_dropout", "0", "--max_grad_norm", "0", *more)
    )
    corpus = load_corpus(arguments.source)
    base = find_base(arguments.model, arguments.model_name, corpus.train)
    rows = make_rows(arguments, corpus, base, lambda _: None)
    plan = make_plan(arguments, base, rows, lambda _: None)
    assert plan
    assert arguments.budget
    torch.manual_seed(0)
    model: Any = build_model(arguments, base)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "butterfly_" in name:  # zero at the start, and with it the gradients of others
            torch.nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    said = [] if said is None else said
    folder.mkdir(exist_ok=True)
    return BudgetTrainer(
        plan=plan,
        budget=arguments.budget,
        checkpoint=StepCheckpoint(folder, {}, said.append),
        state=None,
        say=said.append,
        model=model,
        args=arguments.training,
        rows=rows.train,
        eval_rows=rows.validation,
        processing_class=base.tokenizer,
        fused_loss=arguments.run.fused_loss,
    )


class KeepGradients(TrainerCallback):
    """Those of each step, in float64 by name, before it is taken."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: object, **given: Any) -> None:
        self.steps.append(gradients_of(given["model"]))


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(trainer: BudgetTrainer) -> list[dict[str, torch.Tensor]]:
    """Train, and return the gradients of each step."""
    keep = KeepGradients()
    trainer.add_callback(keep)
    trainer.train()
    return keep.steps
