"""Trying a model without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``model`` into training or evaluation mode, without gradients.

    Afterwards the mode of each module and the random generators are as they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(sorted(devices)), torch.no_grad():
        try:
            model.train(training)
            yield
        finally:
            for module, was_training in modes:
                module.training = was_training
