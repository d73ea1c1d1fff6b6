"""``pack``: replace a model's linear layers by prepacked ones, and put them back."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from slm_kv.errors import KVError
from slm_kv.linear.block_formats import GROUP, quantise_weight
from slm_kv.linear.layer_selection import (
    detached_bias,
    embeddings_by_weight,
    group_by_weight,
    is_tanh_gelu,
    linear_layers,
    onednn_supports,
    tied_embeddings,
    weight_OI,
)
from slm_kv.linear.packed_embedding import PackedEmbedding
from slm_kv.linear.packed_linear import PackedLayer, PackedLinear
from slm_kv.linear.quantised_linear import QuantisedLinear, product_dtype
from slm_kv.linear.quantised_selection import QuantisedFormat, Weights, head_names, layer_format
from slm_kv.linear.widening_tile import WideningTile
from slm_kv.optional_imports import import_optional

PADDED_ROWS = 64  # number of rows to pad to where that is faster, see ``_fastest_padding``


@dataclass
class PackedModel:
    """The modules that ``pack`` replaced, by name, and the means to restore them.

    Attributes:
        model: The packed model, or a ModuleList of several.
        layers: The original linear layers.
        activations: The original activations.
        embeddings: The original embeddings, each with the name of the layer that it is tied to.
        padded_rows: The number of rows to which inputs are padded; 0 for none.
        weights: ``q8`` or ``q4`` if layers are quantised, else None.
    """

    model: Any
    layers: dict[str, Any] = field(default_factory=dict)
    activations: dict[str, nn.Module] = field(default_factory=dict)
    embeddings: dict[str, tuple[nn.Embedding, str]] = field(default_factory=dict)
    padded_rows: int = 0
    weights: QuantisedFormat | None = None

    @property
    def kernel(self) -> str:
        """What multiplies: ``onednn``, the format of quantised weights, or ``plain`` if no layer was replaced."""
        return (self.weights or "onednn") if self.layers else "plain"

    @property
    def quantised_layers(self) -> int:
        """The number of layers whose weight is quantised."""
        return sum(isinstance(self.model.get_submodule(name), QuantisedLinear) for name in self.layers)

    @property
    def layer_summary(self) -> str:
        """How many layers are packed, and how many of them are not quantised where ``weights`` asks for it."""
        layers, quantised = len(self.layers), self.quantised_layers
        packed = f"{layers} linear layer{'' if layers == 1 else 's'} prepacked"
        if loaded := self._loaded_formats():
            return f"linear layers of the file: {loaded}" + (f"; {packed}" if layers else "")
        if self.weights is None:
            return packed
        rest = layers - quantised
        return f"{packed} in {self.weights}" + (
            f" ({rest} not: their inputs are no multiple of {GROUP})" if rest else ""
        )

    def _loaded_formats(self) -> str:
        """How many layers had blocks before packing, by format."""
        names = self.model.named_modules()
        loaded = [module for name, module in names if isinstance(module, QuantisedLinear) and name not in self.layers]
        formats = Counter(layer.weight_blocks.format for layer in loaded)
        return ", ".join(f"{count} in {block_format}" for block_format, count in formats.items())

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(module.nbytes for module in self.model.modules() if isinstance(module, PackedLayer))

    def unpack(self) -> None:
        """Put the original layers back.

        Their weights are bit for bit those that were packed, in the dtype in which they were packed. After
        quantisation they are the rounded weights, because the original ones were freed.
        """
        restored: dict[PackedLayer, nn.Parameter] = {}
        for name, layer in self.layers.items():
            packed = self.model.get_submodule(name)
            if isinstance(packed, PackedLayer):
                if layer.weight is None:  # a layer that occurs twice may already have it
                    if packed not in restored:
                        restored[packed] = unpacked_weight(layer, packed)
                    layer.weight = restored[packed]
                replace_module(self.model, name, layer)
        for name, (embedding, head) in self.embeddings.items():
            embedding.weight = self.layers[head].weight
            replace_module(self.model, name, embedding)
        for name, activation in self.activations.items():
            replace_module(self.model, name, activation)
        for replaced in (self.layers, self.embeddings, self.activations):
            replaced.clear()
        models: list[Any] = list(self.model) if isinstance(self.model, nn.ModuleList) else [self.model]
        for model in models:
            # An embedding that is packed still was loaded so: there is no weight to tie.
            if hasattr(model, "tie_weights") and not isinstance(model.get_input_embeddings(), PackedEmbedding):
                model.tie_weights()


def pack(
    model: nn.Module,
    dtype: torch.dtype | None = None,
    *,
    weights: Weights | None = None,
    plain: Container[nn.Module] = (),
) -> PackedModel:
    """Replace the linear layers of a model on a CPU by prepacked ones, for inference.

    GELU by tanh is replaced by a compiled kernel. An embedding that is tied to the head reads its rows there. The plain
    weights are freed; ``PackedModel.unpack`` rebuilds them. Models in a ModuleList that share a weight share the packed
    one too.

    These layers stay plain: those on other devices, of other dtypes than float32 and bfloat16, quantized ones, and
    those in an adapter that may read its base layer's weight (under LoRA the base layer is packed). On a CPU without
    bfloat16 arithmetic, bfloat16 layers also need numba and an even number of inputs.

    Args:
        model: One model, or a ModuleList of models.
        dtype: Cast the model to this dtype first.
        weights: ``float32`` and ``bfloat16`` cast the model. ``q8`` and ``q4`` hold weights in 8 or 4 bits, in groups
            of 32 with a scale each; the original weights are lost. Layers whose inputs are no multiple of 32 are not
            quantised, and in ``q4`` the head has 8 bits. ``pack_quantised`` measures the error on the model and keeps
            the original weights.
        plain: Layers that stay plain, because something reads their weight.

    Raises:
        KVError: ``weights`` has another value, or is given together with ``dtype``.
    """
    has_onednn = torch.backends.mkldnn.is_available()
    quantised, dtype = _format_and_dtype(weights, dtype)
    if dtype is not None:
        model.to(dtype)
    packed_model = PackedModel(model, weights=quantised)
    tiles: dict[Any, Any] = {}
    layers = {name: layer for name, layer in linear_layers(model) if has_onednn and layer not in plain}
    layers = {
        name: layer
        for name, layer in layers.items()
        if onednn_supports(layer) or layer_format(layer, quantised, False) or _tile_for(layer, tiles)
    }
    onednn_layers = [layer for layer in layers.values() if onednn_supports(layer)]
    packed_model.padded_rows = 0 if quantised else _fastest_padding(onednn_layers)
    embeddings = embeddings_by_weight(model)
    tied = tied_embeddings(model, embeddings, layers)
    freed = {id(layer.weight) for layer in layers.values()} - (embeddings.keys() - tied.keys())
    if layers:
        _copy_from_file(parameter for parameter in model.parameters() if id(parameter) not in freed)
    heads = head_names(model)
    for names in group_by_weight(layers):
        packed = _pack_layer(layers[names[0]], tiles, packed_model, names[0] in heads)
        if group := tied.pop(id(layers[names[0]].weight), None):
            _tie(packed, names[0], group, packed_model)
        for name in names:
            packed_model.layers[name] = layers[name]
            layers[name].weight = None
            replace_module(model, name, packed)
    if layers:
        _replace_activations(packed_model)
    return packed_model


def _format_and_dtype(
    weights: Weights | None, dtype: torch.dtype | None
) -> tuple[QuantisedFormat | None, torch.dtype | None]:
    if weights is None or weights in ("q8", "q4"):
        return weights, dtype
    if weights not in get_args(Weights):
        raise KVError(f"weights={weights!r} is not one of {', '.join(get_args(Weights))}")
    if dtype is not None:
        raise KVError(f"weights={weights!r} and dtype={dtype} both name a dtype; leave one of them out")
    return None, getattr(torch, weights)


def _pack_layer(layer: Any, tiles: dict[Any, Any], packed_model: PackedModel, is_head: bool) -> PackedLayer:
    weight, bias = weight_OI(layer), detached_bias(layer)
    packed: PackedLayer
    if block_format := layer_format(layer, packed_model.weights, is_head):
        tile = _widening_tile(weight, tiles)
        packed = QuantisedLinear(quantise_weight(weight, block_format), bias, weight.dtype, tile)
    elif tile := _tile_for(layer, tiles):
        packed = import_optional("linear.widened_linear").WidenedLinear(weight, bias, tile)
    else:
        packed = PackedLinear(weight, bias, packed_model.padded_rows)
    packed.trainable = layer.weight.requires_grad
    return packed


def _widening_tile(weight_OI: Any, tiles: dict[Any, Any]) -> WideningTile:
    key = tuple(weight_OI.shape)
    if key not in tiles:
        tiles[key] = WideningTile(key[1], product_dtype(), key[0])
    tile: WideningTile = tiles[key]
    return tile


def _tile_for(layer: Any, tiles: dict[Any, Any]) -> Any:
    """Return the tile for a layer that must be widened, from ``tiles`` or new; None if it need not or cannot be."""
    inputs = weight_OI(layer).shape[1]
    widened_linear = import_optional("linear.widened_linear")
    if onednn_supports(layer) or inputs % 2 or not widened_linear:
        return None
    if inputs not in tiles:
        tiles[inputs] = widened_linear.Tile(inputs)
    return tiles[inputs] if tiles[inputs].usable else None


def _tie(packed: PackedLayer, name: str, embeddings: dict[str, Any], packed_model: PackedModel) -> None:
    """Let ``embeddings`` read the packed layer called ``name``, if its rows can be read."""
    if not packed.has_rows:
        _copy_from_file(embedding.weight for embedding in embeddings.values())
        return
    replacement = PackedEmbedding(packed)
    for embedding_name, embedding in embeddings.items():
        packed_model.embeddings[embedding_name] = embedding, name
        embedding.weight = None
        replace_module(packed_model.model, embedding_name, replacement)


def _replace_activations(packed_model: PackedModel) -> None:
    if gelu := import_optional("compiled.gelu"):
        modules = packed_model.model.named_modules(remove_duplicate=False)
        packed_model.activations |= {name: module for name, module in modules if is_tanh_gelu(module)}
        for name in packed_model.activations:
            replace_module(packed_model.model, name, gelu.TanhGELU())


@torch.inference_mode(False)
@torch.no_grad()
def _copy_from_file(parameters: Iterable[Any]) -> None:
    """Copy parameters that stay plain into memory of their own.

    Safetensors maps a checkpoint file into memory, and a single parameter that points into it keeps the whole file
    resident (330 MB for distilgpt2).
    """
    for parameter in parameters:
        if type(parameter) is nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


@torch.inference_mode(False)
@torch.no_grad()
def unpacked_weight(layer: Any, packed: PackedLayer) -> nn.Parameter:
    """Rebuild the weight of ``packed`` as that of ``layer``, which is transposed in a Conv1D."""
    weight = packed.dense_weight()
    plain = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
    return nn.Parameter(plain, requires_grad=packed.trainable)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module called ``name`` in ``model``."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def _fastest_padding(layers: list[Any]) -> int:
    """Return PADDED_ROWS if a probe shows that half as many rows take longer than that many, else 0.

    With AMX, 32 bfloat16 rows took 22 to 24 ms and 64 rows 14.5 (half of distilgpt2's layers): some kernels are made
    for full tiles. It depends on CPU and dtype, so it is measured.
    """
    if not layers:
        return 0
    layer = max(layers, key=lambda candidate: min(weight_OI(candidate).shape))
    packed = PackedLinear(weight_OI(layer), None)
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
