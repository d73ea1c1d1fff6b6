"""Changes that invalidate a layer's inference cache, and a counter that shows whether the cache is used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slm_adapters import ButterflyLayer
from slm_adapters.butterfly.method.inference_cache import TensorSnapshot

Change = Callable[[ButterflyLayer, nn.Parameter], Any]


class CosineCounter(TorchDispatchMode):
    """Counts cosines: composing a rotation computes them, using a cached one does not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket is torch.ops.aten.cos
        return func(*args, **(kwargs or {}))


class OperationCounter(TorchDispatchMode):
    """Counts operations other than views, of which each launches a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default)
        return func(*args, **(kwargs or {}))


def count_cosines(layer: ButterflyLayer, x: torch.Tensor) -> int:
    """Return how many cosines a forward pass without gradients computes."""
    with torch.no_grad(), CosineCounter() as counter:
        layer(x)
    return counter.count


def _optimizer_step(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    optimizer = torch.optim.SGD([angles], lr=0.5)
    angles.grad = torch.ones_like(angles)
    optimizer.step()


def _load(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    layer.load_state_dict({name: values + 0.5 for name, values in layer.state_dict().items()})


def _load_by_assignment(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    layer.load_state_dict({name: values + 0.5 for name, values in layer.state_dict().items()}, assign=True)


def _inference_mode(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    with torch.inference_mode():
        angles.add_(0.5)


CHANGES: dict[str, Change] = {
    "optimizer-step": _optimizer_step,
    "copy": lambda layer, angles: angles.copy_(angles + 0.5),
    "add": lambda layer, angles: angles.add_(0.5),
    "load-state-dict": _load,
    "load-by-assignment": _load_by_assignment,
    "data-copy": lambda layer, angles: angles.data.copy_(angles + 0.5),
    "data-add": lambda layer, angles: angles.data.add_(0.5),
    "data-of-another": lambda layer, angles: setattr(angles, "data", angles + 0.5),
    "another-parameter": lambda layer, angles: layer.butterfly_input.update({"default": nn.Parameter(angles + 0.5)}),
    "in-inference-mode": _inference_mode,
    "strength": lambda layer, angles: layer.set_scale("default", 0.5),
    "strength-of-active": lambda layer, angles: layer.scale_layer(0.5),
    "to-float64-and-back": lambda layer, angles: layer.double().float().butterfly_input["default"].data.add_(0.5),
}


def compare_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers see changes of their angles as on a GPU: by torch's counts of writes, not by values."""
    monkeypatch.setattr(TensorSnapshot, "of_copy", lambda tensor, _: TensorSnapshot.of_memory(tensor))
