"""``pack``: the linear layers of a model prepacked for a CPU, and back."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from slm_kv.errors import KVError
from slm_kv.optional_imports import optional
from slm_kv.linear.packed_embedding import PackedEmbedding
from slm_kv.linear.packed_linear import Int8Linear, PackedLayer, PackedLinear, int8_is_exact

PADDED_ROWS = 64


@dataclass
class Packed:
    """What ``pack`` replaced, by name, in ``model`` or a ModuleList of several: linear ``layers``, ``activations``, and
    ``embeddings``, each with the name of the layer that it is tied to."""

    model: Any
    layers: dict[str, Any] = field(default_factory=dict)
    activations: dict[str, nn.Module] = field(default_factory=dict)
    embeddings: dict[str, tuple[nn.Embedding, str]] = field(default_factory=dict)
    padded_rows: int = 0
    int8: bool = False

    @property
    def kernel(self) -> str:
        """What multiplies: ``onednn``, ``onednn int8``, or ``plain`` where nothing was replaced."""
        if not self.layers:
            return "plain"
        return "onednn int8" if self.int8 else "onednn"

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(module.nbytes for module in self.model.modules() if isinstance(module, PackedLayer))

    def unpack(self) -> None:
        """Put the layers back, with the weights they had, bit for bit in the dtype that they were packed in; after
        int8 with the rounded ones, for the others are gone."""
        restored: dict[PackedLayer, nn.Parameter] = {}
        for name, layer in self.layers.items():
            packed = self.model.get_submodule(name)
            if isinstance(packed, PackedLayer):
                if layer.weight is None:  # not yet, for one that stands in two places
                    if packed not in restored:
                        restored[packed] = _restored(layer, packed)
                    layer.weight = restored[packed]
                _replace(self.model, name, layer)
        for name, (embedding, head) in self.embeddings.items():
            embedding.weight = self.layers[head].weight
            _replace(self.model, name, embedding)
        for name, activation in self.activations.items():
            _replace(self.model, name, activation)
        for replaced in (self.layers, self.embeddings, self.activations):
            replaced.clear()
        models: list[Any] = list(self.model) if isinstance(self.model, nn.ModuleList) else [self.model]
        for model in models:
            if hasattr(model, "tie_weights"):
                model.tie_weights()


def pack(model: nn.Module, dtype: torch.dtype | None = None, *, int8: bool = False) -> Packed:
    """Replace the linear layers of ``model``, on a CPU and for inference, by prepacked ones, and with them GELU by tanh
    by a kernel that takes one pass over memory; ``dtype`` casts the model first.

    Layers of other devices, other dtypes than float32 and bfloat16, quantized ones, and those within an adapter that
    reads its base layer's weight stay as they are; under LoRA the base layer is packed. On a CPU that has no
    arithmetic for bfloat16 a layer of it stays too where numba is missing or its inputs are odd. The plain weights
    are given up: ``Packed.unpack`` makes them again. A tied embedding reads the packed head; in 8 bits, or where the
    head lies in a way that is not known, it keeps the plain weight. Models of a ModuleList that share a weight share
    what it is packed to. ``int8``: weights and inputs in 8 bits, a quarter of float32's memory, an error that should be
    measured on the model at hand, and no way back from it.

    Raises KVError for ``int8`` where the CPU or torch cannot sum it exactly.
    """
    usable = torch.backends.mkldnn.is_available()
    if int8 and not (usable and int8_is_exact()):
        raise KVError("int8 needs oneDNN and a CPU that sums products of 8 bits exactly; leave int8 out")
    if dtype is not None:
        model.to(dtype)
    found = Packed(model, int8=int8)
    tiles: dict[int, Any] = {}
    candidates = dict(_candidates(model)) if usable else {}
    if not int8:
        candidates = {name: one for name, one in candidates.items() if _onednn_takes(one) or _tile_for(one, tiles)}
        found.padded_rows = _padded_rows([one for one in candidates.values() if _onednn_takes(one)])
    looked_up = _embeddings(model)
    tied = {} if int8 else _readers(model, looked_up, candidates)
    given_up = {id(layer.weight) for layer in candidates.values()} - (looked_up.keys() - tied.keys())
    if candidates:
        _leave_the_file(one for one in model.parameters() if id(one) not in given_up)
    for names in _sharing(candidates):
        layer = candidates[names[0]]
        weight, bias = _weight(layer), _bias(layer)
        packed: PackedLayer
        if int8:
            packed = Int8Linear(weight, bias)
        elif tile := _tile_for(layer, tiles):
            packed = optional("linear.widened_linear").WidenedLinear(weight, bias, tile)
        else:
            packed = PackedLinear(weight, bias, found.padded_rows)
        packed.trainable = layer.weight.requires_grad
        if embeddings := tied.pop(id(layer.weight), None):
            _read_from(packed, names[0], embeddings, found)
        del weight
        for name in names:
            found.layers[name] = candidates[name]
            candidates[name].weight = None
            _replace(model, name, packed)
    if candidates and (gelu := optional("compiled.gelu")):
        found.activations |= {name: one for name, one in model.named_modules(remove_duplicate=False) if _tanh_gelu(one)}
        for name in found.activations:
            _replace(model, name, gelu.TanhGELU())
    return found


def _sharing(layers: dict[str, Any]) -> list[list[str]]:
    """Names of the layers that have one weight and bias between them."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, layer in layers.items():
        groups.setdefault((id(layer.weight), id(layer.bias)), []).append(name)
    return list(groups.values())


@torch.inference_mode(False)
@torch.no_grad()
def _leave_the_file(parameters: Iterable[Any]) -> None:
    """Copy parameters that stay: as long as one lies in a mapped checkpoint, all of that is held in memory."""
    for parameter in parameters:
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _candidates(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """By name; one that stands in two places twice."""
    modules = list(model.named_modules(remove_duplicate=False))
    closed = [f"{name}." for name, module in modules if _reads_its_base(module)]
    for name, module in modules:
        if type(module) not in (nn.Linear, Conv1D) or not name or name.startswith(tuple(closed)) or _in_lora(name):
            continue
        if _weight(module).dtype in (torch.float32, torch.bfloat16) and _weight(module).device.type == "cpu":
            yield name, module


def _embeddings(model: nn.Module) -> dict[int, dict[str, Any]]:
    """Those of one weight by name; by the weight's id."""
    found: dict[int, dict[str, Any]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Embedding):
            found.setdefault(id(module.weight), {})[name] = module
    return found


def _readers(
    model: nn.Module, looked_up: dict[int, dict[str, Any]], layers: dict[str, Any]
) -> dict[int, dict[str, Any]]:
    """Those of ``looked_up`` that can do with the rows of a packed layer."""
    columns = {id(layer.weight) for layer in layers.values() if isinstance(layer, Conv1D)}  # whose rows are inputs
    return {
        weight: embeddings
        for weight, embeddings in looked_up.items()
        if weight not in columns and _only_looks_up(model, embeddings)
    }


def _only_looks_up(model: nn.Module, embeddings: dict[str, Any]) -> bool:
    """Whether rows are all that they read of the weight: no adapter's layer around them, nothing done to the rows."""
    around = {name.rpartition(".")[0] for name in embeddings}
    if any(_reads_its_base(model.get_submodule(name)) for name in around):
        return False
    return all(type(one) is nn.Embedding and one.max_norm is None for one in embeddings.values())


def _read_from(packed: PackedLayer, name: str, embeddings: dict[str, Any], found: Packed) -> None:
    """Have tied ``embeddings`` read the layer of that name; where it gives no rows they keep their weight."""
    if packed.gives_rows:
        reader = PackedEmbedding(packed)
        for place, embedding in embeddings.items():
            found.embeddings[place] = embedding, name
            embedding.weight = None
            _replace(found.model, place, reader)
    else:
        _leave_the_file(one.weight for one in embeddings.values())


def _onednn_takes(layer: Any) -> bool:
    """bfloat16 only where the CPU has AVX-512."""
    return layer.weight.dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _tile_for(layer: Any, tiles: dict[int, Any]) -> Any:
    """What widens the weight of a layer that oneDNN does not take, one of ``tiles`` or a new one; None of any other,
    and where it cannot be done."""
    inputs = _weight(layer).shape[1]
    if _onednn_takes(layer) or inputs % 2 or not optional("linear.widened_linear"):
        return None
    if inputs not in tiles:
        tiles[inputs] = optional("linear.widened_linear").Tile(inputs)
    return tiles[inputs] if tiles[inputs].usable else None


def _tanh_gelu(module: nn.Module) -> bool:
    """Whether it is GELU by tanh, under any of its names."""
    known = isinstance(module, NewGELUActivation | FastGELUActivation | GELUTanh)
    return known or (isinstance(module, nn.GELU) and module.approximate == "tanh")


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


@torch.inference_mode(False)
@torch.no_grad()
def _restored(layer: Any, packed: PackedLayer) -> nn.Parameter:
    weight = packed.dense_weight()
    plain = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
    return nn.Parameter(plain, requires_grad=packed.trainable)


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
