"""Copies of frozen weights in the precision of autocast, for the matrix products of training.

Autocast converts a frozen float32 weight at each forward pass; only weights that are trained are converted once. Here
the same conversion is kept from step to step, so losses and gradients are equal to the bit. The float32 weights stay
where they are: saving, merging and evaluation see nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.pytorch_utils import Conv1D

from slm_train.hardware.memory_usage import free_memory

_SHARE_OF_MEMORY = 0.25  # of what is free: copies of a weight are half of its size


class FrozenWeights:
    """Makes the linear layers of a model that are frozen multiply by copies in ``dtype``, within ``with weights():``.

    Exact types only: a subclass may compute something else. A copy is renewed if its weight was changed in place or
    replaced. Recomputation in the backward pass (activation checkpointing) is outside of the context and converts
    again, to the same values.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, others: Sequence[Tensor] = (), device_type: str = "cpu"):
        layers = [layer for layer in model.modules() if type(layer) in (nn.Linear, Conv1D)]
        self.layers: list[Any] = [layer for layer in layers if _is_frozen(layer) and "forward" not in vars(layer)]
        self.device_type = device_type
        self.dtype, self.others = dtype, [weight for weight in others if not weight.requires_grad]
        self._copies: dict[int, tuple[Tensor, int, int, Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all copies, with those of ``others``, which the caller asks ``copy`` for."""
        tensors = [*self.others, *(tensor for layer in self.layers for tensor in layer.parameters())]
        return sum({id(tensor): tensor.numel() for tensor in tensors}.values()) * self.dtype.itemsize

    @contextmanager
    def __call__(self) -> Iterator[None]:
        # Only meanwhile: a copy of a layer must not keep a method of the original.
        changed = [layer for layer in self.layers if _is_frozen(layer)]
        for layer in changed:
            layer.forward = partial(_linear if type(layer) is nn.Linear else _conv1d, self, layer)
        try:
            yield
        finally:
            for layer in changed:
                del layer.forward

    def is_autocast(self) -> bool:
        """Return whether autocast is enabled at this point: a model may turn it off for some of its layers."""
        device = self.device_type
        return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == self.dtype

    def copy(self, weight: Tensor) -> Tensor:
        """Return ``weight`` in ``dtype``, converted once while it is the same."""
        known = self._copies.get(id(weight))
        if known and known[0] is weight and known[1:3] == (weight.data_ptr(), weight._version):
            return known[3]
        low = weight.detach().to(self.dtype)
        self._copies[id(weight)] = weight, weight.data_ptr(), weight._version, low
        return low


def frozen_weights(
    model: nn.Module, training: TrainingArguments, others: Sequence[Tensor] = ()
) -> FrozenWeights | None:
    """Return the copies for a run, or None where they do not help.

    That is: without 16-bit autocast, with weights that are sharded or compiled, or if the copies would take more than a
    quarter of the memory that is free on the device.
    """
    if not (training.bf16 or training.fp16) or training.device.type not in ("cpu", "cuda"):
        return None
    if training.fsdp or training.deepspeed or training.torch_compile:
        return None
    dtype = torch.bfloat16 if training.bf16 else torch.float16
    weights = FrozenWeights(model, dtype, others, training.device.type)
    return weights if 0 < weights.nbytes <= _SHARE_OF_MEMORY * free_memory(training.device) else None


def _is_frozen(layer: nn.Module) -> bool:
    parameters = list(layer.parameters())
    return all(p.dtype == torch.float32 and not p.requires_grad for p in parameters)


def _linear(weights: FrozenWeights, layer: Any, x: Tensor) -> Tensor:
    if not weights.is_autocast():
        usual: Tensor = nn.Linear.forward(layer, x)
        return usual
    bias = None if layer.bias is None else weights.copy(layer.bias)
    return nn.functional.linear(x, weights.copy(layer.weight), bias)


def _conv1d(weights: FrozenWeights, layer: Any, x: Tensor) -> Tensor:
    """Compute as Conv1D of transformers does."""
    if not weights.is_autocast():
        usual: Tensor = Conv1D.forward(layer, x)
        return usual
    y = torch.addmm(weights.copy(layer.bias), x.view(-1, x.size(-1)), weights.copy(layer.weight))
    return y.view((*x.size()[:-1], layer.nf))
