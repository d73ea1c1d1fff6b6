"""What is claimed of slm-train without exception: the fused loss, packed rows, gradients of a step, no token lost."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from slm_bench.promises import Promise
from slm_bench.train.clock import train
from slm_bench.train.flows import flow_trainer, loop_trainer
from slm_bench.train.setting import Setting
from slm_data import IGNORE_INDEX as IGNORE
from slm_data import RowCollator, RowDataset, plan_budget
from slm_train import BudgetTrainer, FusedLoss
from slm_train import MicroBatch as Batch

SAME = 1e-5  # relative difference, in float32: sums in another order

Gradients = dict[str, Tensor]


def promises(setting: Setting) -> list[Promise]:
    """On ``setting``'s texts and shape, in float32, without dropout."""
    exact = setting.exactly()
    with tempfile.TemporaryDirectory() as folder:
        rows: Any = flow_trainer(exact, folder, 0, "--packing best_fit").train_dataset
        loop = loop_trainer(exact, folder, 0, "none", more="--max_grad_norm 0")
        model = exact.model(0, ours=True, mode="baseline").eval()
        return [
            fused_is_usual(model, rows),
            packed_is_apart(model, rows),
            parts_are_the_whole(loop),
            counts(exact, loop, rows),
        ]


def fused_is_usual(model: Any, rows: RowDataset) -> Promise:
    """Loss and gradient of every weight, with and without logits in memory."""
    batch = RowCollator(0, packed=True)([rows[row] for row in range(min(2, len(rows)))])
    usual = _loss_and_gradients(model, batch)
    fused = FusedLoss.fitting(model)
    if fused is None:
        return Promise("the fused loss fits a plain output layer", False, "it does not")
    with fused():
        found = _loss_and_gradients(model, batch)
    apart = relative(found, usual)
    return Promise(f"fused loss and gradients are the usual ones within {SAME:g}", apart <= SAME, f"{apart:.1g}")


@torch.no_grad()
def packed_is_apart(model: Any, rows: RowDataset) -> Promise:
    """Logits of the documents of one row, side by side and each on its own."""
    number = max(range(len(rows)), key=lambda row: len(rows[row].segments))
    row = rows[number]
    batch = {name: value for name, value in RowCollator(0, packed=True)([row]).items() if name != "labels"}
    packed = model(**batch, use_cache=False).logits[0].split(row.segments.tolist())
    pieces = batch["input_ids"][0].split(row.segments.tolist())
    alone = [model(input_ids=piece[None], use_cache=False).logits[0] for piece in pieces]
    errors = [(one - other).abs().max() / other.abs().max() for one, other in zip(packed, alone, strict=True)]
    apart = float(torch.stack(errors).max())
    seen = f"{apart:.1g}, {len(pieces)} documents in a row"
    return Promise(f"packed documents have the logits of unpacked ones within {SAME:g}", apart <= SAME, seen)


def parts_are_the_whole(loop: BudgetTrainer) -> Promise:
    """The gradient of the loop's first step, and of all its rows at once."""
    held: Any = loop.model
    for module in held.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    whole = one_big_batch(loop)
    keep = _First()
    train(loop, keep)
    apart, parts = relative(keep.gradients, whole), len(loop.plan.micro_batches(0))
    says = f"a step of micro-batches has the gradient of one big batch within {SAME:g}"
    return Promise(says, apart <= SAME, f"{apart:.1g}, {parts} micro-batches")


def one_big_batch(loop: BudgetTrainer) -> Gradients:
    """Gradients of the mean loss over all rows of the first step at once, as Hugging Face's model computes it."""
    rows: Any = loop.train_dataset
    numbers = [row for part in loop.plan.micro_batches(0) for row in part.tolist()]
    batch = RowCollator(0, packed=False)([rows[number] for number in numbers])
    model: Any = loop.model
    found = _loss_and_gradients(model, {name: value.to(model.device) for name, value in batch.items()})
    del found["loss"]
    return found


def counts(setting: Setting, loop: BudgetTrainer, packed: RowDataset) -> Promise:
    """Real tokens of an epoch: those with a loss, and the first of each piece of a document, which has none."""
    apart: Any = loop.train_dataset
    plan = plan_budget(apart.plan, loop.plan.budget, seed=0)
    found = {
        "texts": sum(map(len, setting.documents)),
        "a document a row": _collated(apart),
        "packed": _collated(packed),
        "the loop's plan": int(plan.tokens.sum()) + len(apart.plan.length),
    }
    seen = ", ".join(f"{name} {count:,}" for name, count in found.items())
    return Promise("every way counts the same real tokens in an epoch", len(set(found.values())) == 1, seen)


def relative(found: Gradients, wanted: Gradients) -> float:
    """The length of the difference, over that of ``wanted``; infinite where the names are not the same."""
    if found.keys() != wanted.keys():
        return float("inf")
    apart = sum(float((found[name].double() - wanted[name].double()).square().sum()) for name in wanted)
    return float((apart / sum(float(one.double().square().sum()) for one in wanted.values())) ** 0.5)


class _First(TrainerCallback):
    """The gradients of the first step, before it is taken."""

    def __init__(self) -> None:
        self.gradients: Gradients = {}

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        self.gradients = self.gradients or _gradients(given["model"])


def _loss_and_gradients(model: Any, batch: Batch) -> Gradients:
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    found = {"loss": loss.detach(), **_gradients(model)}
    model.zero_grad()
    return found


def _gradients(model: nn.Module) -> Gradients:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _collated(rows: RowDataset) -> int:
    batch = RowCollator(0, rows.packing == "best_fit")
    each = (batch([rows[row]])["labels"] for row in range(len(rows)))
    return sum(int((labels != IGNORE).sum()) for labels in each) + len(rows.plan.length)
