"""``--dry_run``: what would run, and an estimate of its peak memory and its disk.

Activations are not guessed from formulas: a batch goes forward and backward through the real model with
tensors that have shapes but no contents, while the bytes of every live one are counted. That takes part
of a second and no memory, whatever the batch, the architecture, the attention and the checkpointing are.
"""

from __future__ import annotations

import math
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slm_data import RowDataset
from slm_train.accounting import Memory, Parameters, count_parameters, weight_bytes
from slm_train.arguments import Arguments
from slm_train.data import Rows
from slm_train.fused_loss import loss_context
from slm_train.modes import Base, build_model
from slm_train.optimizer import muon_groups
from slm_train.report import megabytes

# What malloc keeps between blocks, as a share of the activations; measured in some twenty runs (LOG.md): 0.2 to 0.5,
# and 0.6 to 0.95 where checkpointing frees and fills each layer twice.
HOLES, HOLES_CHECKPOINTING = 0.3, 0.7


@dataclass(frozen=True)
class Estimate:
    """Bytes, by what they are for; ``peak`` is what Memory.peak() should come to in training."""

    process: int
    weights: int
    gradients: int
    optimizer: int
    activations: int  # at their highest, with the gradients that exist by then
    holes: int  # resident without being used
    checkpoint: int
    parameters: Parameters

    @property
    def peak(self) -> int:
        return self.process + self.weights + self.optimizer + self.activations + self.holes


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors made under it, while they live, and their highest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.highest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return made

    def ignore(self, model: torch.nn.Module) -> None:
        """Weights are counted apart."""
        for tensor in (*model.parameters(), *model.buffers()):
            self.sizes[tensor.untyped_storage()._cdata] = 0

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def estimate(arguments: Arguments, base: Base, rows: Rows) -> Estimate:
    """Build the model as the run would, and see what a step of it takes."""
    training = arguments.training
    memory = Memory(training.device)
    process = memory.now()
    model: Any = build_model(arguments, base)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=training.gradient_checkpointing_kwargs)
    if not arguments.model.four_bit:
        model.to(training.device)
    left_of_loading = max(0, memory.now() - process - weight_bytes(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer_bytes(arguments, model, trained)
    gradients = sum(p.nbytes for p in trained)
    with loss_context(model, training, arguments.run.fused_loss)():
        activations = _activations(model, arguments, rows)
    on_gpu = training.device.type == "cuda"  # the CUDA allocator says what is used, not what it holds
    holes = HOLES_CHECKPOINTING if training.gradient_checkpointing else HOLES
    return Estimate(
        process=process,
        weights=weight_bytes(model),
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        holes=0 if on_gpu else left_of_loading + int(holes * activations),
        checkpoint=gradients + optimizer,
        parameters=count_parameters(model),
    )


def _optimizer_bytes(arguments: Arguments, model: Any, trained: list[torch.nn.Parameter]) -> int:
    """Adam keeps two numbers a trained weight, Muon one a matrix."""
    whole = 2 * sum(p.nbytes for p in trained)
    if not arguments.run.muon:
        return whole
    return whole - sum(p.nbytes for p in muon_groups(model, model.get_input_embeddings())[0]["params"])


def _activations(model: Any, arguments: Arguments, rows: Rows) -> int:
    """The highest sum of live bytes, beyond the weights, of the micro-batches of a step. From the second
    on the gradients of those before are there too."""
    training = arguments.training
    model.train()
    with FakeTensorMode(allow_non_fake_inputs=True), LiveTensors() as live:
        live.ignore(model)
        for _ in range(2 if arguments.budget else min(2, training.gradient_accumulation_steps)):
            with _autocast(training):
                loss = model(**_batch(arguments, rows), use_cache=False, num_items_in_batch=torch.tensor(1)).loss
            loss.backward()
            del loss
    model.zero_grad(set_to_none=True)
    return live.highest


def _batch(arguments: Arguments, rows: Rows) -> dict[str, torch.Tensor]:
    """The largest batch of a run, ``[batch, tokens]``."""
    training = arguments.training
    shape = _largest_batch(arguments, rows)
    ids = torch.zeros(shape, dtype=torch.long, device=training.device)
    batch = {"input_ids": ids, "labels": ids.clone()}
    if rows.train.packing == "best_fit":
        batch["position_ids"] = torch.arange(shape[1], device=training.device).repeat(shape[0], 1)
    return batch


def _largest_batch(arguments: Arguments, rows: Rows) -> tuple[int, int]:
    longest = _longest_row(rows)
    if not arguments.budget:
        return arguments.training.per_device_train_batch_size, longest
    fitting = max(1, arguments.budget.max_tokens_per_micro_batch // longest)
    bound = arguments.rows_of_micro_batch
    return (fitting if bound is None else min(fitting, bound)), longest


def _longest_row(rows: Rows) -> int:
    if isinstance(rows.train, RowDataset):
        return int(rows.train.plan.row_lengths.max())
    return rows.block_size


def _autocast(training: Any) -> Any:
    if not (training.bf16 or training.fp16):
        return nullcontext()
    return torch.autocast(training.device.type, torch.bfloat16 if training.bf16 else torch.float16)


def optimizer_steps(arguments: Arguments, rows: Rows) -> int:
    """Optimizer steps of the whole run, as the Trainer counts them."""
    training = arguments.training
    if training.max_steps > 0 or not isinstance(rows.train, RowDataset):
        return int(training.max_steps)
    batches = math.ceil(len(rows.train) / (training.per_device_train_batch_size * training.world_size))
    each_epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
    return math.ceil(training.num_train_epochs * each_epoch)


def show_dry_run(console: Console, arguments: Arguments, base: Base, rows: Rows, steps: int) -> None:
    """Print what would run. Nothing is trained, and nothing is written but the token cache."""
    found = estimate(arguments, base, rows)
    training = arguments.training
    table = Table(title=f"dry run: {arguments.model.mode} on {base.name or 'a new model'}", title_justify="left")
    table.add_column("")
    table.add_column("estimate", justify="right")
    minutes = arguments.run.max_minutes
    table.add_row("optimizer steps", f"{steps:,}" if minutes is None else f"as many as {minutes:g} minutes take")
    if arguments.budget:
        table.add_row("tokens a step", f"{arguments.budget.target_tokens_per_step:,}")
    else:
        table.add_row("rows a step", f"{training.train_batch_size * training.gradient_accumulation_steps:,}")
    table.add_row("trainable parameters", f"{found.parameters.trainable:,} ({found.parameters.percent:.2f} %)")
    table.add_row("all parameters", f"{found.parameters.total:,}", end_section=True)
    for name in ("process", "weights", "gradients", "optimizer", "activations", "holes"):
        table.add_row(LABELS[name], megabytes(getattr(found, name)))
    table.add_row(f"peak {Memory(training.device).kind}", megabytes(found.peak), style="bold", end_section=True)
    kept = 2 if arguments.budget else (training.save_total_limit or 1) + 1
    table.add_row(f"disk: up to {kept} checkpoints", megabytes(kept * found.checkpoint))
    table.add_row("disk: final weights", megabytes(found.gradients))
    console.print(table)
    console.print(
        "The highest moment of a step counts activations and the gradients that exist by then. Nothing was trained."
    )


LABELS = {
    "process": "the process, before the model",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations and gradients, highest",
    "holes": "held by the allocator, unused",
}
