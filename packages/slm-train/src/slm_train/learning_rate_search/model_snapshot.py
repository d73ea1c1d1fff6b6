"""A copy of everything that training steps change in a model, to return to."""

from __future__ import annotations

import torch
from torch import nn

from slm_train.checkpoints.random_state import random_state, set_random_state


class ModelSnapshot:
    """Trained parameters, gradients, buffers and training modes of a model, and the states of the random generators."""

    def __init__(self, model: nn.Module):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.values = [(tensor, tensor.detach().clone()) for tensor in (*trained, *model.buffers())]
        self.gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
        self.modes = [(module, module.training) for module in model.modules()]
        self.random = random_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Return the model and the random generators to the moment of the snapshot."""
        for tensor, value in self.values:
            tensor.copy_(value)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        for module, was_training in self.modes:
            module.training = was_training
        set_random_state(self.random)
