"""``pack``: the linear layers of a model prepacked for a CPU, and back."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from slm_kv.packed_linear import PackedLinear

DTYPES = (torch.float32, torch.bfloat16)
PADDED_ROWS = 64


@dataclass
class Packed:
    """What ``pack`` replaced: ``layers`` by name."""

    model: Any
    layers: dict[str, Any] = field(default_factory=dict)
    padded_rows: int = 0

    def unpack(self) -> None:
        """Put the layers back, with the weights they had, bit for bit in the dtype that they were packed in."""
        for name, layer in self.layers.items():
            packed = self.model.get_submodule(name)
            if isinstance(packed, PackedLinear):
                _restore(layer, packed)
                _replace(self.model, name, layer)
        self.layers.clear()
        if hasattr(self.model, "tie_weights"):
            self.model.tie_weights()


def pack(model: nn.Module, dtype: torch.dtype | None = None) -> Packed:
    """Replace the linear layers of ``model``, on a CPU and for inference, by prepacked ones; ``dtype`` casts it first.

    Layers of other devices, other dtypes than float32 and bfloat16, quantized ones, and those within an adapter that
    reads its base layer's weight stay as they are; under LoRA the base layer is packed. The plain weights are given
    up: ``Packed.unpack`` makes them again. A tied embedding keeps its own.
    """
    if dtype is not None:
        model.to(dtype)
    found = Packed(model)
    candidates = dict(_candidates(model)) if torch.backends.mkldnn.is_available() else {}
    found.padded_rows = _padded_rows(list(candidates.values()))
    for name, layer in candidates.items():
        packed = PackedLinear(_weight(layer), _bias(layer), found.padded_rows)
        _replace(model, name, packed)
        layer.weight = None
        found.layers[name] = layer
    return found


def _candidates(model: nn.Module) -> Iterator[tuple[str, Any]]:
    closed = [f"{name}." for name, module in model.named_modules() if _reads_its_base(module)]
    for name, module in model.named_modules():
        if type(module) not in (nn.Linear, Conv1D) or not name or name.startswith(tuple(closed)) or _in_lora(name):
            continue
        if _weight(module).dtype in DTYPES and _weight(module).device.type == "cpu":
            yield name, module


def _in_lora(name: str) -> bool:
    """The small matrices of an adapter: they are switched and changed, and gain little."""
    return ".lora_A." in name or ".lora_B." in name


def _reads_its_base(module: nn.Module) -> bool:
    """Whether it is an adapter's layer that may use its base layer's weight. LoRA's only calls it."""
    if "peft" not in sys.modules:
        return False
    from peft.tuners.lora.layer import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain_lora = type(module) is LoraLinear and not any(getattr(module, "use_dora", {}).values())
    return isinstance(module, BaseTunerLayer) and not plain_lora


def _weight(layer: Any) -> Any:
    """[O, I]; Conv1D holds it the other way round."""
    return layer.weight.t() if isinstance(layer, Conv1D) else layer.weight


def _bias(layer: Any) -> Any:
    return None if layer.bias is None else layer.bias.detach()


def _restore(layer: Any, packed: PackedLinear) -> None:
    weight = packed.weight()
    plain = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
    layer.weight = nn.Parameter(plain, requires_grad=False)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _padded_rows(layers: list[Any]) -> int:
    """PADDED_ROWS where half as many rows take longer than that many: some kernels are made for full tiles."""
    if not layers:
        return 0
    layer = max(layers, key=lambda one: min(_weight(one).shape))
    packed = PackedLinear(_weight(layer), None)
    inputs = {
        rows: torch.zeros(rows, packed.in_features, dtype=packed.dtype) for rows in (PADDED_ROWS // 2, PADDED_ROWS)
    }
    with torch.inference_mode():
        times: dict[int, list[float]] = {rows: [] for rows in inputs}
        for _ in range(7):
            for rows, x in inputs.items():
                start = time.perf_counter()
                packed(x)
                times[rows].append(time.perf_counter() - start)
    half, full = (statistics.median(times[rows]) for rows in inputs)
    return PADDED_ROWS if full < 0.9 * half else 0
