"""What must be the same for a run to be continued, by names that a user knows."""

from __future__ import annotations

from typing import Any

from slm_train.arguments import ROTATING, Arguments, ModelOptions
from slm_train.data import Rows
from slm_train.modes import Base


def identity_of(arguments: Arguments, base: Base, rows: Rows) -> dict[str, Any]:
    """What must be the same for a run to be continued."""
    model, training = arguments.model, arguments.training
    same: dict[str, Any] = {
        "mode": model.mode,
        "base": base.name or model.from_scratch,
        "data": rows.fingerprint,
        "adapter": _adapter(model),
        "seed": training.seed,
    }
    if arguments.budget:
        return same | _budget_identity(arguments)
    return same | {"batch": [training.per_device_train_batch_size, training.gradient_accumulation_steps]}


def _budget_identity(arguments: Arguments) -> dict[str, Any]:
    """After every step there is a checkpoint, so that a change of any of these would show from one step to the next."""
    budget, model, training = arguments.budget, arguments.model, arguments.training
    assert budget
    return {
        "target_tokens_per_step": budget.target_tokens_per_step,
        "max_tokens_per_micro_batch": budget.max_tokens_per_micro_batch,
        "per_device_train_batch_size": arguments.rows_of_micro_batch,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": str(getattr(training.lr_scheduler_type, "value", training.lr_scheduler_type)),
        "warmup_steps": training.warmup_steps,
        "schedule_in": budget.schedule_in,
        "optimizer": "muon" if arguments.run.muon else str(training.optim),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "lora_dropout": model.lora_dropout,
        "butterfly_dropout": model.butterfly_dropout,
        "bf16": training.bf16,
        "fp16": training.fp16,
    }


def _adapter(model: ModelOptions) -> list[Any]:
    targets = sorted(model.target_modules)
    if model.mode == "baseline":
        return []
    if model.mode in ROTATING:
        rotation = model.rotation
        kind: list[Any] = [rotation.block_size, rotation.stages, rotation.preset, rotation.side, rotation.scale]
    else:
        kind = [model.lora_r, model.lora_alpha, model.use_rslora, model.use_dora]
    return [*kind, targets, *(["4bit"] if model.load_in_4bit else [])]
