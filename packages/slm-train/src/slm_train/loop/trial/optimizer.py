"""Taking a step with the optimizer on a dummy weight, to find missing packages and faults of its settings."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from slm_train.errors import TrainError, shown

_PACKAGES = {
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "anyprecision": ("torchdistx", "torchdistx"),
    "torch_4bit|torch_8bit": ("torchao", "torchao"),
    "npu": ("torch_npu", "torch-npu"),
    "xla": ("torch_xla", "torch-xla"),
    "adamw_(bnb_)?8bit|paged|ademamix|lion|rmsprop_bnb": ("bitsandbytes", "bitsandbytes"),
}
_NEEDS_TARGETS = re.compile("galore|apollo")
_NEEDS_MODEL = re.compile("galore|apollo|lomo")
_READS_NO_ARGUMENTS = re.compile(
    "adamw_torch(_fused|_xla|_npu_fused)?|adafactor|(paged_)?adamw_(bnb_)?(8|32)bit|.*lion.*|.*lomo"
)
_PAIRS = re.compile(r"\s*\w+\s*=[^=,]+(,\s*\w+\s*=[^=,]+)*")
_SIDE = 128  # of the dummy weight: 8-bit optimizers treat small weights like others do


def check_optimizer(training: TrainingArguments) -> list[str]:
    """Return lines to print about the optimizer. Raises TrainError if it cannot be used here."""
    name = OptimizerNames(training.optim).value
    _check_package(name)
    _check_arguments(name, training)
    if not _NEEDS_MODEL.search(name):
        try:
            _take_step(training)
        except Exception as error:  # a library's own objects with a user's settings, on this device
            raise TrainError(_message(name, training, error)) from error
    if training.optim_args and _READS_NO_ARGUMENTS.fullmatch(name):
        return [f"--optim_args {shown(training.optim_args)} has no effect with --optim {name}"]
    return []


def _check_package(name: str) -> None:
    for pattern, (module, package) in _PACKAGES.items():
        if re.search(pattern, name) and find_spec(module) is None:
            raise TrainError(
                f"--optim {name} needs the package {package}: pip install {package}, or give another --optim, such as "
                "adamw_torch"
            )


def _check_arguments(name: str, training: TrainingArguments) -> None:
    if training.optim_args and not _PAIRS.fullmatch(training.optim_args):
        raise TrainError(
            f"--optim_args {shown(training.optim_args)} must be pairs of name and value, such as "
            "momentum=0.9,nesterov=true"
        )
    if _NEEDS_TARGETS.search(name) and not training.optim_target_modules:
        raise TrainError(f"--optim {name} needs the layers to optimize: --optim_target_modules all-linear")


def _take_step(training: TrainingArguments) -> None:
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(training)
    weight = torch.nn.Parameter(torch.zeros(_SIDE, _SIDE, device=training.device))
    optimizer: Any = optimizer_class([weight], **settings)
    if hasattr(optimizer, "train"):
        optimizer.train()
    weight.grad = torch.zeros_like(weight)
    optimizer.step()


def _message(name: str, training: TrainingArguments, error: Exception) -> str:
    given = f" --optim_args {shown(training.optim_args)}" if training.optim_args else ""
    reason = " ".join((str(error) or type(error).__name__).split()).rstrip(".")
    return f"--optim {name}{given} does not work on {training.device}: {reason}; give another, such as adamw_torch"
