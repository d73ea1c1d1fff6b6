"""The trained weights of a model as whole tensors, also where each process has only a part of them (``--fsdp``)."""

from __future__ import annotations

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from slm_train.sharding.whole_tensors import whole


def whole_trained_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Return the trained weights of a model, not wrapped, by name, on the first process; the others get none.

    Those of a sharded model are copies on the CPU. Every process must call this.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (accelerator.is_main_process or isinstance(parameter, DTensor)):
            values = whole(parameter.detach())
            if accelerator.is_main_process:
                weights[name] = values.cpu() if isinstance(parameter, DTensor) else values
    return weights
