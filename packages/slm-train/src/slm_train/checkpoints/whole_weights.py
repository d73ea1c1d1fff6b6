"""The trained weights of a model as whole tensors, also where each process has only a part of them (FSDP)."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from slm_train.checkpoints.step_checkpoint_file import load_weights

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def whole_trained_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Return the trained weights of a model, not wrapped, by name, on the first process; the others get none.

    Every process must call this.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        gathered: dict[str, Any] = get_model_state_dict(model, options=WHOLE)
        return gathered
    if not accelerator.is_main_process:
        return {}
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def load_whole_weights(accelerator: Accelerator, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what ``whole_trained_weights`` returned. Every process must call this."""
    if accelerator.distributed_type == DistributedType.FSDP:
        whole: dict[str, Any] = dict(weights)
        set_model_state_dict(model, whole, options=WHOLE)
    else:
        load_weights(model, weights)
