"""Estimate of the peak memory of a run.

Activations are not estimated by formulas. A batch is run forward and backward through the real model, with tensors that
have shapes but no contents, and the bytes of live tensors are counted. This takes a fraction of a second and no memory,
and holds for any batch size, architecture, attention and activation checkpointing.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slm_data import RowDataset
from slm_train.arguments import Arguments
from slm_train.data.rows import Rows
from slm_train.hardware.memory_usage import MemoryUsage
from slm_train.loop.muon import muon_groups
from slm_train.losses.evaluation_loss import EvaluationLoss
from slm_train.losses.fused_loss import loss_context
from slm_train.model.base_model import BaseModel
from slm_train.model.model_building import build_model
from slm_train.model.parameter_counts import ParameterCounts, count_parameters, weight_bytes
from slm_train.reports.live_tensors import LiveTensors

# Memory that malloc holds unused between blocks, as a share of the activations. In some twenty runs (docs/log.md) it
# was 0.2 to 0.5, and 0.6 to 0.95 with activation checkpointing, which allocates and frees each layer twice.
_FRAGMENTATION, _FRAGMENTATION_CHECKPOINTING = 0.3, 0.7


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose. ``peak`` is what ``MemoryUsage.peak()`` should be at the end of a run."""

    process: int
    weights: int
    gradients: int
    optimizer: int
    activations: int  # at the peak of a step, with the gradients computed so far
    evaluation: int  # at the peak of an evaluation batch
    fragmentation: int  # resident but unused
    checkpoint: int
    parameters: ParameterCounts

    @property
    def peak(self) -> int:
        """Bytes at the peak of a step, or of an evaluation during training."""
        # Gradients do not exist during an evaluation.
        batch = max(self.activations, self.evaluation)
        return self.process + self.weights + self.optimizer + batch + self.fragmentation


def estimate_memory(arguments: Arguments, base: BaseModel, rows: Rows) -> tuple[MemoryEstimate, Any]:
    """Build the model as the run would, and estimate the memory of a step and of an evaluation.

    Returns:
        The estimate, and the model on its device.
    """
    training = arguments.training
    memory = MemoryUsage(training.device)
    process = memory.current()
    model: Any = build_model(arguments, base)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=training.gradient_checkpointing_kwargs)
    if not arguments.model.is_four_bit:
        model.to(training.device)
    left_by_loading = max(0, memory.current() - process - weight_bytes(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer_bytes(arguments, model)
    gradients = sum(p.nbytes for p in trained)
    with loss_context(model, training, arguments.run.fused_loss)():
        activations = activation_bytes(model, arguments, _largest_shape(arguments, rows), is_packed=_is_packed(rows))
    evaluation = _evaluation_bytes(model, arguments, rows)
    on_gpu = training.device.type == "cuda"  # there MemoryUsage counts allocated bytes, without fragmentation
    estimate = MemoryEstimate(
        process=process,
        weights=weight_bytes(model),
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        evaluation=evaluation,
        fragmentation=0
        if on_gpu
        else left_by_loading + int(fragmentation_share(training) * max(activations, evaluation)),
        checkpoint=gradients + optimizer,  # the trained weights have the size of their gradients
        parameters=count_parameters(model),
    )
    return estimate, model


def fragmentation_share(training: Any) -> float:
    """Return the bytes that malloc holds unused, as a share of the activations."""
    if training.device.type == "cuda":
        return 0.0
    return _FRAGMENTATION_CHECKPOINTING if training.gradient_checkpointing else _FRAGMENTATION


def optimizer_bytes(arguments: Arguments, model: Any) -> int:
    """Return the bytes of optimizer state: two values per trained weight with Adam, one with Muon."""
    adam = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    if not arguments.run.muon:
        return adam
    return adam - sum(p.nbytes for p in muon_groups(model, model.get_input_embeddings())[0]["params"])


def activation_bytes(model: Any, arguments: Arguments, shape: tuple[int, int], *, is_packed: bool) -> int:
    """Return the peak of live bytes, beyond the weights, in the micro-batches of a step, each of ``shape``.

    If a step has several micro-batches, two are run: in the second one, gradients already exist.
    """
    training = arguments.training
    model.train()
    # Real weights, fake activations: only shapes are computed, but by the model's own code.
    with FakeTensorMode(allow_non_fake_inputs=True), LiveTensors() as live:
        live.ignore(model)
        for _ in range(2 if arguments.budget else min(2, training.gradient_accumulation_steps)):
            with _autocast(training):
                batch = _batch(shape, training.device, is_packed=is_packed)
                loss = model(**batch, use_cache=False, num_items_in_batch=torch.tensor(1)).loss
            loss.backward()
            del loss, batch
    model.zero_grad(set_to_none=True)
    return live.highest


@torch.no_grad()
def _evaluation_bytes(model: Any, arguments: Arguments, rows: Rows) -> int:
    """Return the peak of live bytes, beyond the weights, in the largest batch of an evaluation.

    Real tensors without contents of their own, because which tokens are predicted decides the shapes: one batch is
    evaluated.
    """
    training, plan = arguments.training, rows.evaluated.plan
    shape = min(training.per_device_eval_batch_size, len(plan)), int(plan.row_lengths.max())
    loss = EvaluationLoss.fitting(model, training)
    model.eval()
    with LiveTensors() as live, _autocast(training):
        live.ignore(model)
        batch = _batch(shape, training.device, is_packed=plan.packing == "best_fit")
        loss(model, batch, batch.pop("labels"))
    return live.highest


def _is_packed(rows: Rows) -> bool:
    return rows.train.packing == "best_fit"


def _batch(shape: tuple[int, int], device: torch.device, *, is_packed: bool) -> dict[str, torch.Tensor]:
    ids = torch.zeros(shape, dtype=torch.long, device=device)
    batch = {"input_ids": ids, "labels": ids.clone()}
    if is_packed:
        batch["position_ids"] = torch.arange(shape[1], device=device).repeat(shape[0], 1)
    return batch


def _largest_shape(arguments: Arguments, rows: Rows) -> tuple[int, int]:
    longest = int(rows.train.plan.row_lengths.max()) if isinstance(rows.train, RowDataset) else rows.block_size
    if not arguments.budget:
        return arguments.training.per_device_train_batch_size, longest
    fitting = max(1, arguments.budget.micro_batch_tokens // longest)
    max_rows = arguments.max_micro_batch_rows
    return (fitting if max_rows is None else min(fitting, max_rows)), longest


def _autocast(training: Any) -> Any:
    if not (training.bf16 or training.fp16):
        return nullcontext()
    return torch.autocast(training.device.type, torch.bfloat16 if training.bf16 else torch.float16)
