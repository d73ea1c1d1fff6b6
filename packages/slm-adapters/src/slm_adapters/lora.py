"""LoRA that fits the model at hand (Hu et al. 2021, arXiv:2106.09685), by PEFT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.errors import AdapterError
from slm_adapters.targets import check_targets, default_targets, is_named, linear_layers


@dataclass(frozen=True)
class LoraSettings:
    """Rank ``r``, scale ``alpha / r`` (``alpha / sqrt(r)`` with ``use_rslora``), dropout on the
    adapter's input. ``target_modules`` empty: every linear layer of the blocks."""

    r: int = 16
    alpha: float = 32
    dropout: float = 0.05
    target_modules: Sequence[str] = ()
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise AdapterError(f"--lora_r {self.r} must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise AdapterError(f"--lora_alpha {self.alpha} must be a number above 0")
        if not 0 <= self.dropout < 1:
            raise AdapterError(f"--lora_dropout {self.dropout} must be at least 0 and below 1")


def lora_config(model: PreTrainedModel, settings: LoraSettings) -> LoraConfig:
    """PEFT's configuration for ``model``. Raises AdapterError for a target that does not exist."""
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
    """``model`` frozen, with LoRA layers that train, in float32, and change nothing at the start."""
    return get_peft_model(model, lora_config(model, settings))


def _fan_in_fan_out(model: PreTrainedModel, targets: Sequence[str]) -> bool:
    """Whether weights are stored ``[in, out]``: GPT-2's Conv1D, until 4-bit loading replaces it."""
    layers = linear_layers(model)
    return any(isinstance(layer, Conv1D) for name, layer in layers.items() if is_named(name, targets))
