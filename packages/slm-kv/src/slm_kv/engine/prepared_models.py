"""Preparing models for the engine (paged attention, packed layers), and restoring them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from slm_kv.attention.interface import IMPLEMENTATION, install, set_attention
from slm_kv.attention.probe import AttentionProbe
from slm_kv.errors import KVError
from slm_kv.linear.int8_gate import Int8Model, pack_int8, split_rows
from slm_kv.linear.packing import PackedModel, pack
from slm_kv.linear.plain_copy import PlainCopy, RebuiltWeights, plain_copy
from slm_kv.linear.weight_reads import recording_weight_reads
from slm_kv.peft_models import RotatedLayer, base_model, rotated_layers


class PreparedModels:
    """Models whose attention and linear layers are replaced until ``restore``."""

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        self.models = list(models)
        self._original_attention = [pair for model in models for pair in _attention(model)]
        self._training = [module for model in models for module in model.modules() if module.training]
        self._packed: PackedModel | Int8Model | None = None
        self.int8: Int8Model | None = None
        self._plain: set[nn.Module] = set()  # layers whose weight the models read
        self._rebuilt = RebuiltWeights()
        self._only_calling: list[RotatedLayer] = []  # layers that were told not to read their base layer's weight

    def let_rotated_layers_only_call(self) -> None:
        """Tell butterflies not to read their base layers' weights, so that ``pack`` can pack these."""
        layers = [layer for model in self.models for layer in rotated_layers(model) if layer.cache_weight is None]
        for layer in layers:
            layer.cache_weight = False
        self._only_calling = layers

    def unpack_rotated_layers(self) -> None:
        """Let butterflies read their base layers' weights again, which are plain again."""
        if self._only_calling and isinstance(self._packed, PackedModel):
            self._packed.unpack()
            self._restore_rotated_layers()
            self.pack()

    def _restore_rotated_layers(self) -> None:
        for layer in self._only_calling:
            layer.cache_weight = None
        self._only_calling = []

    @property
    def packed_layers(self) -> int:
        """The number of linear layers that are packed."""
        return len(self._packed.layers) if self._packed else 0

    def install_attention(self, positions: int) -> AttentionProbe:
        """Switch to paged attention, in eval mode, and return what the layers require of it for ``positions``."""
        with recording_weight_reads(self.models) as self._plain:
            return install([model.eval() for model in self.models], positions)

    @contextmanager
    def original_attention(self, implementation: str | None = None) -> Generator[None]:
        """Return a context in which the models have their own attention, or ``implementation`` of transformers' own.

        An error leaves it to ``restore`` to put the original one back.
        """
        self._restore_attention()
        if implementation is not None:
            for model in self.models:
                set_attention(model, implementation)
        yield
        for model in self.models:
            set_attention(model, IMPLEMENTATION)

    def pack(self) -> None:
        """Pack the linear layers; layers that the models share are packed once."""
        model = self.models[0] if len(self.models) == 1 else nn.ModuleList(self.models)
        self._packed = pack(model, plain=self._plain)

    def pack_int8(self, token_ids: Sequence[int], positions: int) -> None:
        """Pack the linear layers in 8 bits, if that raises the perplexity on ``token_ids`` by at most MAX_RISE.

        Raises:
            KVError: there are several models, or ``pack_int8`` refuses the model or the text.
        """
        if len(self.models) > 1:
            raise KVError(f"int8_text measures one model and {len(self.models)} were given; leave it out")
        # Perplexity is measured with the model's own attention: pages are allocated only after packing.
        with self.original_attention():
            self.int8 = self._packed = pack_int8(self.models[0], split_rows(token_ids, positions), plain=self._plain)

    def copy_base(self) -> PlainCopy:
        """Copy the first model without adapters, with its own attention and plain layers.

        Raises:
            KVError: the layers are packed in 8 bits.
        """
        if self.int8:
            raise KVError(
                "8 bits were measured with the adapters that were given at the start; restart with the new one among "
                "them, or without 8 bits"
            )
        assert self._packed is None or isinstance(self._packed, PackedModel)
        copied, memo = plain_copy(base_model(self.models[0]), self._packed, self._rebuilt)
        for config, original in self._original_attention:
            if id(config) in memo:
                memo[id(config)]._attn_implementation = original
        return copied

    def pack_copy(self, copied: PlainCopy) -> None:
        """Pack the layers of these models, which are a copy with an adapter, as those of the original."""
        copied.pack(nn.ModuleList(self.models), self._plain)

    def restore(self) -> None:
        """Put the original layers, attention and training mode back."""
        if self._packed:
            self._packed.unpack()
            self._packed = None
        self._restore_rotated_layers()
        self._restore_attention()
        for module in self._training:
            module.training = True

    def _restore_attention(self) -> None:
        for config, original in self._original_attention:
            config._attn_implementation = original


def _attention(model: PreTrainedModel) -> list[tuple[Any, Any]]:
    """The model's configs, also those of the parts of a multimodal one, and the attention implementation of each.

    Configs that contain others come first, because setting theirs sets that of the others too.
    """
    parts = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    configs = {id(config): config for top in (model.config, *parts) for config in _with_sub_configs(top)}
    return [(config, config._attn_implementation) for config in configs.values()]


def _with_sub_configs(config: Any) -> list[Any]:
    subs = [getattr(config, key, None) for key in getattr(config, "sub_configs", {})]
    return [config, *(inner for sub in subs if sub is not None for inner in _with_sub_configs(sub))]
