"""One token through the adapted layers of all blocks, beside the same layers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from slm_adapters import ButterflyModel
from slm_bench.comparison import Comparison, Row
from slm_bench.turns import Times, in_turns

WALKS = 3  # of a turn, over all layers: their weights do not fit the CPU's caches together
ALONE = "the base layers"


@torch.no_grad()
def measure(models: dict[str, Any], rounds: int) -> dict[str, Times]:
    """Models by name in turns, after their base layers. A butterfly comes once more without its kept weights."""
    layers = {
        name: [one for one in model.modules() if isinstance(one, BaseTunerLayer)] for name, model in models.items()
    }
    held: Any = next(iter(layers.values()))
    alone = [layer.get_base_layer() for layer in held]
    device = alone[0].weight.device
    inputs = [torch.randn(1, 1, layer.in_features, device=device) for layer in alone]
    ways: dict[str, Callable[[], None]] = {ALONE: partial(_walk, alone, inputs)}
    ways |= {name: partial(_walk, adapted, inputs) for name, adapted in layers.items()}
    for model in models.values():
        model.eval()
    return in_turns(ways, rounds)


def without_kept_weights(models: dict[str, Any], copied: Callable[[Any], Any]) -> dict[str, Any]:
    """The butterflies of ``models``, copied, with the rotation alone applied to each token."""
    found = {}
    for name, model in models.items():
        if isinstance(model.base_model, ButterflyModel):
            found[f"{name}, rotation alone"] = copied(model)
            found[f"{name}, rotation alone"].cache_weights(False)
    return found


def compare(times: dict[str, Times], title: str) -> Comparison:
    """Times over those of the base layers."""
    alone = times[ALONE]
    rows = (
        Row(
            name,
            {} if name == ALONE else {"time / the base layers'": alone.over(one)},
            {"all layers, ms": one.each(WALKS).median * 1000},
        )
        for name, one in times.items()
    )
    return Comparison(title, tuple(rows))


def _walk(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> None:
    for _ in range(WALKS):
        for layer, x in zip(layers, inputs, strict=True):
            layer(x)
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
