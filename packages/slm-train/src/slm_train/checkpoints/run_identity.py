"""The identity of a run: the settings that must not change when it is resumed, under names that users know."""

from __future__ import annotations

from typing import Any

from slm_train.arguments import Arguments
from slm_train.data.rows import Rows
from slm_train.model.base_model import BaseModel
from slm_train.options.model import BUTTERFLY_MODES, ModelOptions


def run_identity(arguments: Arguments, base: BaseModel, rows: Rows) -> dict[str, Any]:
    """Return the settings that must not change when a run is resumed. Stored in run.json and in step checkpoints."""
    model, training = arguments.model, arguments.training
    identity: dict[str, Any] = {
        "mode": model.mode,
        "base": base.name or model.from_scratch,
        "data": rows.fingerprint,
        "adapter": _adapter_identity(model),
        "seed": training.seed,
    }
    if arguments.budget:
        return identity | _budget_identity(arguments)
    return identity | {"batch": [training.per_device_train_batch_size, training.gradient_accumulation_steps]}


def _budget_identity(arguments: Arguments) -> dict[str, Any]:
    """Return the settings that must not change in the token-budget loop.

    A run can be resumed after any step; a change would take effect in the middle of its plan.
    """
    budget, model, training = arguments.budget, arguments.model, arguments.training
    assert budget
    return {
        "target_tokens_per_step": budget.target_tokens_per_step,
        "max_tokens_per_micro_batch": budget.max_tokens_per_micro_batch,
        "per_device_train_batch_size": arguments.max_micro_batch_rows,
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


def _adapter_identity(model: ModelOptions) -> list[Any]:
    if model.mode == "baseline":
        return []
    if model.mode in BUTTERFLY_MODES:
        settings = model.butterfly_settings
        values: list[Any] = [settings.block_size, settings.stages, settings.preset, settings.side, settings.scale]
    elif model.mode == "oft":
        values = [model.oft_block_size]
    else:
        values = [model.lora_r, model.lora_alpha, model.use_rslora, model.use_dora]
    # Settings that were added later are left out where they are not set: earlier runs have to stay resumable.
    later: list[Any] = [*(["4bit"] if model.load_in_4bit else []), *(["resized"] if model.resize_embeddings else [])]
    if model.modules_to_save:
        later.append(sorted(model.modules_to_save))
    return [*values, sorted(model.target_modules), *later]
