"""Creating LoRA adapters (Hu et al. 2021, arXiv:2106.09685) for a model, with PEFT's implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from peft import LoraConfig, PeftModel, TaskType
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.adaptation.extra_modules import extra_modules
from slm_adapters.adaptation.injection import inject
from slm_adapters.lora.settings import LoraSettings
from slm_adapters.peft_trial import accepted_targets, check_accepted
from slm_adapters.targets import ALL_LINEAR, check_targets, default_targets, is_named, linear_layers


def lora_config(model: PreTrainedModel, settings: LoraSettings) -> LoraConfig:
    """Return PEFT's configuration for ``model``.

    Default targets that PEFT cannot adapt are left out. Raises AdapterError for a target or a module to save that does
    not exist or cannot be trained.
    """
    # DoRA computes with the weights, which the trial does not have; it matches names in the same way.
    trial_config = partial(_config, model, replace(settings, use_dora=False))
    names = list(settings.target_modules)
    if names in ([], [ALL_LINEAR]):
        targets = accepted_targets(model, default_targets(model), trial_config)
    else:
        targets = check_targets(model, names, embeddings=True)
        check_accepted(model, targets, trial_config)
    return _config(model, settings, targets, extra=True)


def add_lora(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """Return ``model``, frozen, with trainable LoRA layers in float32 that do not change its output before training."""
    return inject(model, lora_config(model, settings))


def _config(model: PreTrainedModel, settings: LoraSettings, targets: Sequence[str], extra: bool = False) -> LoraConfig:
    options = extra_modules(model, settings.modules_to_save, settings.new_rows, targets) if extra else {}
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        fan_in_fan_out=_fan_in_fan_out(model, targets),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        **options,
    )


def _fan_in_fan_out(model: PreTrainedModel, targets: Sequence[str]) -> bool:
    """Whether weights are stored ``[in, out]``: GPT-2's Conv1D, unless 4-bit loading has replaced it."""
    layers = linear_layers(model)
    return any(isinstance(layer, Conv1D) for name, layer in layers.items() if is_named(name, targets))
