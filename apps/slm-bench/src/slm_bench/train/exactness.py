"""Guarantees of slm-train: the fused loss, packed rows, gradients of a step, and the count of tokens."""

import tempfile
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from slm_bench.harness.guarantees import Guarantee, format_counts
from slm_bench.train.inputs import Inputs
from slm_bench.train.slm_trainers import budget_trainer, flow_trainer
from slm_bench.train.step_timing import train_quietly
from slm_data import IGNORE_INDEX, RowCollator, RowDataset, plan_budget
from slm_train import BudgetTrainer, FusedLoss, MicroBatch

TOLERANCE = 1e-5  # relative difference in float32: sums are taken in another order

Gradients = dict[str, Tensor]


def check_all(inputs: Inputs) -> list[Guarantee]:
    """Check on the texts and the model shape of ``inputs``, in float32 and without dropout."""
    exact = replace(inputs, options=replace(inputs.options, bf16=False))
    with tempfile.TemporaryDirectory() as folder:
        rows: Any = flow_trainer(exact, folder, 0, "--packing best_fit").train_dataset
        loop = budget_trainer(exact, folder, 0, "none", flags="--max_grad_norm 0")
        model = exact.new_model(0, ours=True, mode="baseline").eval()
        return [
            fused_loss_matches(model, rows),
            packed_documents_are_independent(model, rows),
            micro_batches_match_one_batch(loop),
            all_tokens_are_counted(exact, loop, rows),
        ]


def fused_loss_matches(model: Any, rows: RowDataset) -> Guarantee:
    """Compare loss and gradients of all weights with those of the model's own loss."""
    batch = RowCollator(0, packed=True)([rows[row] for row in range(min(2, len(rows)))])
    expected = _loss_and_gradients(model, batch)
    fused_loss = FusedLoss.fitting(model)
    if fused_loss is None:
        return Guarantee("the fused loss fits a plain output layer", False, "it does not")
    with fused_loss():
        actual = _loss_and_gradients(model, batch)
    error = relative_error(actual, expected)
    statement = f"fused loss and gradients are the usual ones within {TOLERANCE:g}"
    return Guarantee(statement, error <= TOLERANCE, f"{error:.1g}")


@torch.no_grad()
def packed_documents_are_independent(model: Any, rows: RowDataset) -> Guarantee:
    """Compare logits of the documents in the fullest row with those of each document alone."""
    row = rows[max(range(len(rows)), key=lambda number: len(rows[number].segments))]
    lengths = row.segments.tolist()
    batch = {name: value for name, value in RowCollator(0, packed=True)([row]).items() if name != "labels"}
    packed = model(**batch, use_cache=False).logits[0].split(lengths)
    alone = [model(input_ids=ids[None], use_cache=False).logits[0] for ids in batch["input_ids"][0].split(lengths)]
    errors = [
        (actual - expected).abs().max() / expected.abs().max() for actual, expected in zip(packed, alone, strict=True)
    ]
    error = float(torch.stack(errors).max())
    statement = f"packed documents have the logits of unpacked ones within {TOLERANCE:g}"
    return Guarantee(statement, error <= TOLERANCE, f"{error:.1g}, {len(lengths)} documents in a row")


def micro_batches_match_one_batch(loop: BudgetTrainer) -> Guarantee:
    """Compare the gradient of the loop's first step with that of all its rows in one batch."""
    model: Any = loop.model
    rows: Any = loop.train_dataset
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    parts = loop.plan.micro_batches(0)
    batch = RowCollator(0, packed=False)([rows[row] for part in parts for row in part.tolist()])
    expected = _loss_and_gradients(model, {name: value.to(model.device) for name, value in batch.items()})
    del expected["loss"]
    recorder = _FirstGradients()
    train_quietly(loop, recorder)
    error = relative_error(recorder.gradients, expected)
    statement = f"a step of micro-batches has the gradient of one big batch within {TOLERANCE:g}"
    return Guarantee(statement, error <= TOLERANCE, f"{error:.1g}, {len(parts)} micro-batches")


def all_tokens_are_counted(inputs: Inputs, loop: BudgetTrainer, packed: RowDataset) -> Guarantee:
    """Compare the tokens of an epoch in all flows: predicted ones, and the first of each segment, which has no loss."""
    unpacked: Any = loop.train_dataset
    plan = plan_budget(unpacked.plan, loop.plan.budget, seed=0)
    counts = {
        "texts": sum(map(len, inputs.documents)),
        "a document a row": _collated_tokens(unpacked),
        "packed": _collated_tokens(packed),
        "the loop's plan": int(plan.tokens.sum()) + len(unpacked.plan.length),
    }
    statement = "every flow counts the same real tokens in an epoch"
    return Guarantee(statement, len(set(counts.values())) == 1, format_counts(counts))


def relative_error(actual: Gradients, expected: Gradients) -> float:
    """Return the norm of the difference over that of ``expected``; infinity if the names differ."""
    if actual.keys() != expected.keys():
        return float("inf")
    difference = sum(float((actual[name].double() - expected[name].double()).square().sum()) for name in expected)
    return float((difference / sum(float(gradient.double().square().sum()) for gradient in expected.values())) ** 0.5)


class _FirstGradients(TrainerCallback):
    """Records the gradients of the first step, before the optimizer uses them."""

    def __init__(self) -> None:
        self.gradients: Gradients = {}

    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        self.gradients = self.gradients or _gradients(kwargs["model"])


def _loss_and_gradients(model: Any, batch: MicroBatch) -> Gradients:
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    gradients = {"loss": loss.detach(), **_gradients(model)}
    model.zero_grad()
    return gradients


def _gradients(model: nn.Module) -> Gradients:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _collated_tokens(rows: RowDataset) -> int:
    collate = RowCollator(0, rows.packing == "best_fit")
    all_labels = (collate([rows[row]])["labels"] for row in range(len(rows)))
    return sum(int((labels != IGNORE_INDEX).sum()) for labels in all_labels) + len(rows.plan.length)
