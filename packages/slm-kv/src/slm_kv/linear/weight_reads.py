"""Finding linear layers whose weight a model reads itself, beside calling the layer: they cannot be packed."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from torch import nn

from slm_kv.linear.layer_selection import linear_layers


class _RecordedParameters(dict[str, Any]):
    """A layer's parameters. ``was_read`` is set when the weight is read while the layer does not compute."""

    is_computing = was_read = False

    def __getitem__(self, name: str) -> Any:
        if name == "weight" and not self.is_computing:
            self.was_read = True
        return super().__getitem__(name)


@contextmanager
def recording_weight_reads(models: Iterable[nn.Module]) -> Generator[set[nn.Module]]:
    """Return a context that collects, at its end, the linear layers whose weight was read outside of their forward.

    Mixture-of-experts routers ask for their weight's dtype, and kernels for recurrent layers take weights directly.
    """
    found: set[nn.Module] = set()
    layers = {id(layer): layer for model in models for _, layer in linear_layers(model)}.values()
    originals = [(layer, layer._parameters) for layer in layers]
    hooks = []
    for layer, parameters in originals:
        layer._parameters = _RecordedParameters(parameters)
        hooks.append(layer.register_forward_pre_hook(_begin))
        hooks.append(layer.register_forward_hook(_end, always_call=True))
    try:
        yield found
    finally:
        found.update(layer for layer, _ in originals if layer._parameters.was_read)
        for hook in hooks:
            hook.remove()
        for layer, parameters in originals:
            layer._parameters = parameters


def _begin(layer: Any, *_: Any) -> None:
    layer._parameters.is_computing = True


def _end(layer: Any, *_: Any) -> None:
    layer._parameters.is_computing = False
