"""Numbers of parameters, and bytes of weights, gradients and optimizer state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters. In a 4-bit weight values are counted, not bytes."""

    trainable: int
    total: int

    @property
    def percent_trainable(self) -> float:
        """Trainable parameters in percent of all."""
        return 100 * self.trainable / max(self.total, 1)


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count each parameter once, even if several layers share it."""
    sizes = {id(p): (_value_count(p), p.requires_grad) for p in model.parameters()}
    trainable = sum(count for count, is_trainable in sizes.values() if is_trainable)
    return ParameterCounts(trainable, sum(count for count, _ in sizes.values()))


def _value_count(parameter: nn.Parameter) -> int:
    quant_state = getattr(parameter, "quant_state", None)  # bitsandbytes packs two 4-bit values into a byte
    return int(torch.Size(quant_state.shape).numel()) if quant_state is not None else parameter.numel()


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters, shared ones once."""
    return sum({id(p): p.nbytes for p in model.parameters()}.values())


def gradient_bytes(model: nn.Module) -> int:
    """Return the bytes of the gradients that exist at the moment."""
    return sum({id(p): p.grad.nbytes for p in model.parameters() if p.grad is not None}.values())


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of the optimizer's state: with Adam about twice those of the trained weights."""
    states = optimizer.state.values()
    return sum(value.nbytes for state in states for value in state.values() if torch.is_tensor(value))
