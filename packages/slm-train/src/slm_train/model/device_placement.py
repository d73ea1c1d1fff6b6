"""Moving a model to the device that it is trained on."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from slm_train.arguments import Arguments


def move_to_device(model: PreTrainedModel, arguments: Arguments) -> PreTrainedModel:
    """Move ``model`` to the device of this process, unless it is there already or is to be sharded; return it."""
    training = arguments.training
    if not (arguments.model.is_four_bit or training.fsdp or training.deepspeed):
        untyped: Any = model  # transformers annotates ``to`` for torch.device only in part
        untyped.to(training.device)
    return model
