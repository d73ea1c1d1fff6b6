"""A copy of a model's modules with plain linear layers, to which an adapter can be attached, and packing them again.

The copy shares all tensors with the model. Weights that are packed are rebuilt only as long as an adapter needs them.
"""

from __future__ import annotations

import copy
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from slm_kv.errors import KVError
from slm_kv.linear.layer_selection import linear_layers, needs_only_rows
from slm_kv.linear.packed_embedding import PackedEmbedding
from slm_kv.linear.packed_linear import PackedLayer
from slm_kv.linear.packing import PackedModel, replace_module, unpacked_weight
from slm_kv.peft_models import forget_adapters, layers_without_adapters


class RebuiltWeights:
    """Plain weights of packed layers, rebuilt when they are asked for. They are shared, and kept while in use."""

    def __init__(self) -> None:
        self._weights: WeakValueDictionary[PackedLayer, nn.Parameter] = WeakValueDictionary()

    def weight(self, layer: Any, packed: PackedLayer) -> nn.Parameter:
        """The weight of ``packed`` as that of ``layer``, a linear layer or a Conv1D."""
        weight = self._weights.get(packed)
        if weight is None:
            weight = self._weights[packed] = unpacked_weight(layer, packed)
        return weight


@dataclass
class PlainCopy:
    """A copy of a model without adapters; its packed layers are replaced by plain ones that have no weight yet.

    Attributes:
        model: The copy.
        rebuilt: Where ``restore_weights`` finds the weights.
        layers: The packed layer of each plain one.
        embeddings: The packed embedding of each plain one, and the layer that it is tied to, plain and packed.
    """

    model: Any
    rebuilt: RebuiltWeights
    layers: dict[nn.Module, PackedLayer] = field(default_factory=dict)
    embeddings: dict[nn.Module, tuple[PackedEmbedding, nn.Module, PackedLayer]] = field(default_factory=dict)

    def restore_weights(self) -> None:
        """Give the plain layers their weights. Takes the time and, until ``pack``, the memory of a copy of them."""
        for layer, packed in self.layers.items():
            layer.weight = self.rebuilt.weight(layer, packed)
        for embedding, (_, head, packed) in self.embeddings.items():
            embedding.weight = self.rebuilt.weight(head, packed)

    def pack(self, model: nn.Module, plain: Container[nn.Module]) -> None:
        """Put the packed layers into ``model``, the copy with an adapter, where nothing reads their weight.

        Args:
            model: The copy, in a wrapper perhaps.
            plain: Layers that stay plain, see ``pack``.
        """
        for name, layer in list(linear_layers(model)):
            if layer in self.layers and layer not in plain:
                replace_module(model, name, self.layers[layer])
        for name, module in list(model.named_modules(remove_duplicate=False)):
            if module in self.embeddings and needs_only_rows(model, {name: module}):
                replace_module(model, name, self.embeddings[module][0])
        self.layers, self.embeddings = {}, {}  # frees the weights that are packed


def plain_copy(model: nn.Module, packed_model: PackedModel | None, rebuilt: RebuiltWeights) -> tuple[PlainCopy, Any]:
    """Copy ``model`` without its adapters.

    Fast: it copies no tensor. The model must not run meanwhile.

    Returns:
        The copy, and ``copy.deepcopy``'s memo: the copies by the ids of the originals.

    Raises:
        KVError: layers are packed that ``packed_model`` did not pack, so that their plain ones are unknown.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    plain = PlainCopy(None, rebuilt)
    if packed_model:
        _copy_packed(packed_model, plain, memo)
    if any(isinstance(module, PackedLayer) and id(module) not in memo for module in model.modules()):
        raise KVError(
            "the model's linear layers were packed before the engine was made, as those of a GGUF file are, and no "
            "adapter can be added over them; start with plain layers"
        )
    for layer, own in layers_without_adapters(model).items():
        memo[id(layer)] = copy.deepcopy(own, memo)
    plain.model = copy.deepcopy(model, memo)
    forget_adapters(plain.model)
    used = set(plain.model.modules())
    plain.layers = {layer: packed for layer, packed in plain.layers.items() if layer in used}
    plain.embeddings = {layer: value for layer, value in plain.embeddings.items() if layer in used}
    return plain, memo


def _copy_packed(packed_model: PackedModel, plain: PlainCopy, memo: dict[int, Any]) -> None:
    """Let the plain layers that ``packed_model`` replaced, which have no weight, be the copies of the packed ones."""
    copies: dict[nn.Module, nn.Module] = {}
    for name, original in packed_model.layers.items():
        packed = packed_model.model.get_submodule(name)
        if packed not in copies:
            tensors = {id(tensor): tensor for tensor in original.parameters()}
            layer = copies[packed] = copy.deepcopy(original, memo | tensors)
            memo[id(packed)], plain.layers[layer] = layer, packed
    for name, (original, head) in packed_model.embeddings.items():
        embedding, packed_head = (packed_model.model.get_submodule(each) for each in (name, head))
        if id(embedding) not in memo:
            layer = memo[id(embedding)] = copy.deepcopy(original)
            plain.embeddings[layer] = embedding, copies[packed_head], packed_head
