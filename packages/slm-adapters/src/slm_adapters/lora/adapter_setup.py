"""Creating LoRA adapters (Hu et al. 2021, arXiv:2106.09685) for a model, with PEFT's implementation."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.lora.settings import LoraSettings
from slm_adapters.targets import check_targets, default_targets, is_named, linear_layers


def lora_config(model: PreTrainedModel, settings: LoraSettings) -> LoraConfig:
    """Return PEFT's configuration for ``model``. Raises AdapterError for a target that does not exist."""
    targets = check_targets(model, settings.target_modules or default_targets(model))
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=_fan_in_fan_out(model, targets),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
    )


def add_lora(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """Return ``model``, frozen, with trainable LoRA layers in float32 that do not change its output before training."""
    return get_peft_model(model, lora_config(model, settings))


def _fan_in_fan_out(model: PreTrainedModel, targets: Sequence[str]) -> bool:
    """Whether weights are stored ``[in, out]``: GPT-2's Conv1D, unless 4-bit loading has replaced it."""
    layers = linear_layers(model)
    return any(isinstance(layer, Conv1D) for name, layer in layers.items() if is_named(name, targets))
