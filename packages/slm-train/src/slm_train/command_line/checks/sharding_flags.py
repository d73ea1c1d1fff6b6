"""Flags that ``--fsdp`` contradicts, and settings of FSDP that have not been shown to be right here."""

from __future__ import annotations

import os
from typing import Any

from slm_train.arguments import SlmTrainingArguments
from slm_train.errors import TrainError, shown
from slm_train.options.model import ModelOptions
from slm_train.options.run import RunOptions
from slm_train.sharding.model_sharding import LAYER_CLASSES, RESHARD

# What transformers itself sets in --fsdp_config, and what changes nothing: other values are refused.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "version": (2,),
    "min_num_params": (0,),
    "xla": (False,),
    "xla_fsdp_v2": (False,),
    "xla_fsdp_grad_ckpt": (False,),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP",),
    "state_dict_type": ("FULL_STATE_DICT",),
    "cpu_offload": (False,),
    "cpu_ram_efficient_loading": (False, "false"),
    "activation_checkpointing": (False, "false"),
}
_REMEDIES = {
    "version": "FSDP1 is not supported; leave it out for FSDP2",
    "activation_checkpointing": "give --gradient_checkpointing",
}
# Optimizers that treat each number of a weight alike, so that parts of weights have the updates of whole ones.
_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")


def check_sharding(training: SlmTrainingArguments, model: ModelOptions, run: RunOptions) -> None:
    """Raise TrainError for flags that do not work with ``--fsdp``."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise TrainError("accelerate is configured for FSDP; start with torchrun or --multi_gpu, and give --fsdp")
    if not training.fsdp:
        return
    optimizer = str(getattr(training.optim, "value", training.optim))
    obstacles = {
        f"--mode {model.mode}, whose base has 4-bit weights": (model.is_four_bit, "give --mode lora"),
        "--torch_compile": (training.torch_compile, "leave it out"),
        "--muon": (run.muon, "leave it out"),
        f"--optim {optimizer}": (
            not run.muon and optimizer not in _OPTIMIZERS,
            f"choose from {', '.join(_OPTIMIZERS)}",
        ),
        "--use_liger_kernel": (training.use_liger_kernel, "leave it out"),
        "--auto_find_batch_size": (training.auto_find_batch_size, "give --per_device_train_batch_size"),
    }
    for what, (is_given, remedy) in obstacles.items():
        if is_given:
            raise TrainError(f"--fsdp does not work with {what}; {remedy}, or leave out --fsdp")
    config: Any = training.fsdp_config  # transformers has read it, if it was a file
    _check_config(config or {})


def _check_config(config: dict[str, Any]) -> None:
    for name, value in config.items():
        if name == RESHARD and str(value).lower() in ("true", "false"):
            continue
        if name == LAYER_CLASSES and isinstance(value, list) and all(isinstance(each, str) for each in value):
            continue
        if value not in _WITHOUT_EFFECT.get(name, ()):
            remedy = _REMEDIES.get(name, f"leave it out (known are {LAYER_CLASSES}, a list of names, and {RESHARD})")
            raise TrainError(f"--fsdp_config: {name} {shown(str(value))} is not supported; {remedy}")
