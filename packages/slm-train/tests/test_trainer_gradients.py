"""One step of 4 x 2 micro-batches is one step of 1 x 8, on rows of unequal length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from slm_data import load_corpus
from slm_testing.train.gradients import relative_difference
from slm_testing.train.tiny_runs import Tiny
from slm_train.command_line.parsing import parse_arguments
from slm_train.data.rows import make_rows
from slm_train.loop.trainer import SlmTrainer
from slm_train.model.base_model import find_base_model
from slm_train.model.model_building import build_model


class FirstGradients(TrainerCallback):
    """Records the gradients of a step before they are clipped."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: object, **named: object) -> None:
        model = named["model"]
        assert isinstance(model, torch.nn.Module)
        parameters = model.named_parameters()
        self.gradients = {name: p.grad.double().clone() for name, p in parameters if p.grad is not None}


def gradients(
    tiny: Tiny, folder: Path, mode: str, packing: str, batch: int, accumulation: int, fused_loss: bool = True
) -> dict[str, torch.Tensor]:
    shape = ("--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(accumulation))
    fixed = (
        "--max_grad_norm",
        "0",
        "--lora_dropout",
        "0",
        "--train_sampling_strategy",
        "sequential",
        "--max_steps",
        "1",
    )
    arguments = parse_arguments(tiny.flags(folder, "--mode", mode, "--packing", packing, *shape, *fixed))
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    rows = make_rows(arguments, corpus, base, lambda _: None)
    torch.manual_seed(0)
    model = build_model(arguments, base)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would make the gradient of A zero: no test at all
            torch.nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    keep = FirstGradients()
    trainer = SlmTrainer(
        model=model, args=arguments.training, rows=rows.train, eval_rows=rows.validation,
        processing_class=base.tokenizer, callbacks=[keep], fused_loss=fused_loss,
    )  # fmt: skip
    trainer.train()
    return keep.gradients


@pytest.mark.parametrize("packing", ["none", "best_fit"])
@pytest.mark.parametrize("mode", ["baseline", "lora", "qlora", "butterfly", "butterfly_block"])
def test_four_micro_batches_of_two_give_the_gradient_of_one_of_eight(
    tiny: Tiny, tmp_path: Path, mode: str, packing: str
) -> None:
    whole = gradients(tiny, tmp_path / "whole", mode, packing, batch=8, accumulation=1)
    parts = gradients(tiny, tmp_path / "parts", mode, packing, batch=2, accumulation=4)
    assert relative_difference(whole, parts) <= 1e-6


@pytest.mark.parametrize("mode", ["baseline", "lora", "qlora", "butterfly", "butterfly_block"])
def test_the_fused_loss_gives_the_gradients_of_transformers(tiny: Tiny, tmp_path: Path, mode: str) -> None:
    unfused = gradients(tiny, tmp_path / "unfused", mode, "best_fit", batch=4, accumulation=2, fused_loss=False)
    fused = gradients(tiny, tmp_path / "fused", mode, "best_fit", batch=4, accumulation=2)
    assert relative_difference(unfused, fused) <= 1e-6
