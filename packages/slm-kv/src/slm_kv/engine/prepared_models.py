"""Preparing models for the engine (paged attention, packed layers), and restoring them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from slm_kv.attention.interface import IMPLEMENTATION, AttentionProbe, install
from slm_kv.errors import KVError
from slm_kv.linear.int8_gate import Int8Model, pack_int8, split_rows
from slm_kv.linear.packing import PackedModel, pack


class PreparedModels:
    """Models whose attention and linear layers are replaced until ``restore``."""

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        self.models = models
        config: Any = models[0].config
        self._original_attention = config._attn_implementation
        self._packed: PackedModel | Int8Model | None = None
        self.int8: Int8Model | None = None

    @property
    def packed_layers(self) -> int:
        """The number of linear layers that are packed."""
        return len(self._packed.layers) if self._packed else 0

    def install_attention(self) -> AttentionProbe:
        """Switch to paged attention, in eval mode, and return what the layers require of it."""
        return install([model.eval() for model in self.models])

    def pack(self) -> None:
        """Pack the linear layers; layers that the models share are packed once."""
        self._packed = pack(self.models[0] if len(self.models) == 1 else nn.ModuleList(self.models))

    def pack_int8(self, token_ids: Sequence[int], positions: int) -> None:
        """Pack the linear layers in 8 bits, if that raises the perplexity on ``token_ids`` by at most MAX_RISE.

        Raises:
            KVError: there are several models, or ``pack_int8`` refuses the model or the text.
        """
        if len(self.models) > 1:
            raise KVError(f"int8_text measures one model and {len(self.models)} were given; leave it out")
        (model,) = self.models
        # Perplexity is measured with the model's own attention: pages are allocated only after packing.
        model.set_attn_implementation(self._original_attention)
        self.int8 = self._packed = pack_int8(model, split_rows(token_ids, positions))
        model.set_attn_implementation(IMPLEMENTATION)

    def restore(self) -> None:
        """Put the original layers and attention back."""
        if self._packed:
            self._packed.unpack()
            self._packed = None
        for model in self.models:
            model.set_attn_implementation(self._original_attention)
