"""Decoding: one token through the adapted layers of all blocks, next to the same layers without adapters."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from slm_adapters import ButterflyModel
from slm_bench.adapters.base_models import share_weights
from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.interleaved_timing import Times, time_interleaved

PASSES = 3  # per round, over all layers: a single pass is too short to time
BASE_LAYERS = "the base layers"


@torch.no_grad()
def measure(models: Mapping[str, Any], rounds: int) -> dict[str, Times]:
    """Time the base layers, then the adapted layers of each model."""
    layers = {
        name: [module for module in model.eval().modules() if isinstance(module, BaseTunerLayer)]
        for name, model in models.items()
    }
    first: Any = next(iter(layers.values()))
    base_layers = [layer.get_base_layer() for layer in first]
    inputs = [torch.randn(1, 1, layer.in_features, device=layer.weight.device) for layer in base_layers]
    contenders: dict[str, Callable[[], None]] = {BASE_LAYERS: partial(_run_layers, base_layers, inputs)}
    contenders |= {name: partial(_run_layers, adapted, inputs) for name, adapted in layers.items()}
    return time_interleaved(contenders, rounds)


def without_cached_weights(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of the butterflies that rotate each token instead of caching rotated weights."""
    copies = {}
    for name, model in models.items():
        if isinstance(model.base_model, ButterflyModel):
            copies[f"{name}, rotation alone"] = share_weights(model)
            copies[f"{name}, rotation alone"].cache_weights(False)
    return copies


def compare(times: Mapping[str, Times], title: str) -> Comparison:
    """Return times over those of the base layers."""
    reference = times[BASE_LAYERS]
    rows = []
    for name, seconds in times.items():
        ratios = {} if seconds is reference else {"time / the base layers'": reference.speed_over(seconds)}
        rows.append(Row(name, ratios, {"all layers, ms": seconds.per_call(PASSES).median * 1000}))
    return Comparison(title, tuple(rows))


def _run_layers(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> None:
    for _ in range(PASSES):
        for layer, x in zip(layers, inputs, strict=True):
            layer(x)
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
