"""Recomputing an activation with the settings of a run, to find unknown ones before it starts."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments

from slm_train.errors import TrainError

_OF_TRANSFORMERS = {"every_n_layers", "offload"}


def check_activation_checkpointing(training: TrainingArguments) -> None:
    """Raise TrainError for ``--gradient_checkpointing_kwargs`` that torch or transformers do not accept."""
    settings: Any = training.gradient_checkpointing_kwargs
    if not training.gradient_checkpointing or not isinstance(settings, dict):
        return
    layers = settings.get("every_n_layers", 1)
    if not isinstance(layers, int) or layers < 1:
        raise TrainError(f"--gradient_checkpointing_kwargs: every_n_layers {layers!r} must be a whole number above 0")
    try:
        own = {name: value for name, value in settings.items() if name not in _OF_TRANSFORMERS}
        x = torch.zeros(1, requires_grad=True)
        checkpoint(torch.exp, x, **own).sum().backward()
    except Exception as error:  # torch with a user's settings: any error is one of the settings
        reason = " ".join(str(error).split()).rstrip(".")
        raise TrainError(f"--gradient_checkpointing_kwargs: {reason}; leave it out for the defaults") from error
