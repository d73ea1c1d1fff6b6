"""Sharding a model with FSDP2.

The same code runs on GPUs and, over gloo, on CPUs: accelerate 1.15 shards on GPUs only, wants the optimizer together
with the model, and would evaluate the base model before training on a device that does not have it.

Weights are gathered in float32 and computed with under autocast, so a sharded run computes what one with DDP does. A
``MixedPrecisionPolicy`` would halve what is sent; it also rounds the angles of butterfly adapters, embeddings and norms
to bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers import TrainingArguments

from slm_train.errors import TrainError
from slm_train.sharding.whole_tensors import accept_whole_weights

LAYER_CLASSES, RESHARD = "transformer_layer_cls_to_wrap", "reshard_after_forward"


@dataclass(frozen=True)
class ShardingSettings:
    """How to shard a model.

    Attributes:
        layer_classes: Class names of the blocks whose weights are gathered together; none for the model's own list.
        frees_after_forward: Whether the weights of a block are freed after its forward pass, and gathered again for the
            backward pass.
    """

    layer_classes: tuple[str, ...] = ()
    frees_after_forward: bool = True

    @classmethod
    def of(cls, training: TrainingArguments) -> ShardingSettings:
        """Return the settings in ``--fsdp_config``, as transformers completed it."""
        config: Any = training.fsdp_config or {}
        return cls(tuple(config.get(LAYER_CLASSES) or ()), str(config.get(RESHARD, True)).lower() == "true")


def shard_model(model: nn.Module, device: torch.device, settings: ShardingSettings) -> None:
    """Shard the parameters of ``model`` over all processes, on ``device``. Every process must call this.

    Every process has the same weights. Each block is gathered by itself; embeddings, the last norm and the output layer
    together, so weights that are tied stay tied.

    Raises TrainError for a model whose blocks are not known.
    """
    untyped: Any = model
    names = settings.layer_classes or tuple(getattr(untyped, "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names and module is not model]
    if not blocks:
        classes = sorted({type(module).__name__ for module in model.modules() if isinstance(module, nn.Module)})
        wanted = f"it has no layers of the class {', '.join(names)}" if names else "the class of its layers is unknown"
        raise TrainError(
            f"--fsdp gathers the weights of one layer at a time, but {wanted}; name it with --fsdp_config "
            f'\'{{"{LAYER_CLASSES}": ["..."]}}\' (choose from {", ".join(classes)})'
        )
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # OFT's layers in GPT-2 are transposed views
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in reversed(blocks):  # those within another first
        fully_shard(block, mesh=mesh, reshard_after_forward=settings.frees_after_forward)
    # By default the root keeps its weights after a forward pass: weights that are loaded later would not be used.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    if hasattr(model, "get_base_model"):  # PEFT's generate calls the model inside, which has no hooks that gather
        register_fsdp_forward_method(model, "generate")
    accept_whole_weights(model)
