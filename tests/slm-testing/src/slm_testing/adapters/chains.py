"""A chain of adapted linear layers that compose their rotations together, and the same layer by layer."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from slm_adapters import ButterflyConfig, ButterflyLayer
from slm_adapters.butterfly.method.shared_compositions import SharedCompositions
from slm_adapters.butterfly.method.tuner import ButterflyModel
from slm_testing.adapters.cache_changes import CosineCounter
from slm_testing.adapters.tiny_adapters import randomize_angles

Gradients = dict[str, torch.Tensor]
Run = Callable[[Any], torch.Tensor]
WIDTH = 24


class Chain(nn.Module):
    """Linear layers one after the other, of which some can be left out."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))
        self.skipped: set[int] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = x if index in self.skipped else layer(x).tanh()
        return x


def chain(count: int = 4, **settings: Any) -> Any:
    """Return adapted linear layers with random angles, in training mode, whose compositions are shared."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"side": "both", "block_size": 12, "target_modules": r"layers\.\d+"} | settings
    tuner = ButterflyModel(Chain(count), ButterflyConfig(**options), "default")
    randomize_angles(tuner.model)
    model = tuner.model.train()
    model(inputs())  # layers take part from their second pass on
    return model


def inputs(seed: int = 1) -> torch.Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module, *losses: torch.Tensor, retain_graph: bool = False) -> Gradients:
    model.zero_grad()
    for value in losses:
        value.backward(retain_graph=retain_graph)
    return {name: values.grad.clone() for name, values in model.named_parameters() if values.grad is not None}


def loss(model: nn.Module, seed: int = 1) -> torch.Tensor:
    values: torch.Tensor = model(inputs(seed)).square().sum()
    return values


def cosines(model: nn.Module, run: Run = loss) -> int:
    with CosineCounter() as counter:
        run(model).backward()
    return counter.count


def one_by_one(model: nn.Module, run: Run) -> Gradients:
    """Return the gradients of a copy whose layers do not share."""
    alone = copy.deepcopy(model)
    for module in alone.modules():
        if isinstance(module, ButterflyLayer):
            module.compositions = SharedCompositions()
    return gradients(alone, run(alone))
