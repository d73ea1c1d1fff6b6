"""Preparing models for the engine (paged attention, packed layers), and restoring them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from slm_kv.attention.interface import IMPLEMENTATION, install, set_attention
from slm_kv.attention.probe import AttentionProbe
from slm_kv.engine.vocabulary import Prompt, Vocabulary
from slm_kv.errors import KVError
from slm_kv.linear.gate_text import built_in_text
from slm_kv.linear.packing import PackedModel, pack
from slm_kv.linear.plain_copy import PlainCopy, RebuiltWeights, plain_copy
from slm_kv.linear.quantisation_gate import QuantisedModel, pack_quantised, split_rows
from slm_kv.linear.quantised_selection import QuantisedFormat
from slm_kv.linear.weight_reads import recording_weight_reads
from slm_kv.peft_models import RotatedLayer, base_model, rotated_layers


class PreparedModels:
    """Models whose attention and linear layers are replaced until ``restore``."""

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        self.models = list(models)
        self._original_attention = [pair for model in models for pair in _attention(model)]
        self._training = [module for model in models for module in model.modules() if module.training]
        self._packed: PackedModel | QuantisedModel | None = None
        self.quantised: QuantisedModel | None = None
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
            self._pack()

    def _restore_rotated_layers(self) -> None:
        for layer in self._only_calling:
            layer.cache_weight = None
        self._only_calling = []

    @property
    def packed_layers(self) -> str:
        """How many linear layers are packed, in words."""
        return self._packed.layer_summary if self._packed else "0 linear layers prepacked"

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

    def pack(
        self, weights: QuantisedFormat | None, gate_text: Prompt | None, vocabulary: Vocabulary, positions: int
    ) -> None:
        """Pack the linear layers; layers that the models share are packed once.

        Args:
            weights: Quantise them, if that raises the perplexity on a text by at most the format's limit.
            gate_text: The text; None for the built-in one.
            vocabulary: Encodes it.
            positions: The number of positions that a text can have.

        Raises:
            KVError: there are several models to quantise, or ``pack_quantised`` refuses the model or the text.
        """
        if weights is not None:
            token_ids = vocabulary.encode(built_in_text() if gate_text is None else gate_text)
            self._pack_quantised(weights, split_rows(token_ids, positions))
        else:
            self._pack()

    def _pack(self) -> None:
        model = self.models[0] if len(self.models) == 1 else nn.ModuleList(self.models)
        self._packed = pack(model, plain=self._plain)

    def _pack_quantised(self, weights: QuantisedFormat, token_rows: list[Sequence[int]]) -> None:
        if len(self.models) > 1:
            raise KVError(f"{weights} is measured on one model and {len(self.models)} were given; leave it out")
        # Perplexity is measured with the model's own attention: pages are allocated only after packing.
        with self.original_attention():
            self.quantised = self._packed = pack_quantised(self.models[0], weights, token_rows, plain=self._plain)

    def release_memory(self) -> None:
        """Free the weights that were quantised, and return free memory to the system.

        ``restore`` then leaves rounded weights. glibc keeps what was freed in small pieces: for a model of 135 M
        parameters 500 MB, after loading, verifying and packing it.
        """
        if self.quantised:
            self.quantised.forget_plain_weights()
        trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim:
            trim(0)

    def copy_base(self) -> PlainCopy:
        """Copy the first model without adapters, with its own attention and plain layers.

        Raises:
            KVError: the layers are quantised.
        """
        if self.quantised:
            weights = self.quantised.weights
            raise KVError(
                f"{weights} was measured with the adapters that were given at the start; restart with the new one "
                f"among them, or without {weights}"
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


def check_weights(weights: str | None, gate_text: Prompt | None, packed: bool) -> None:
    """Refuse options of the engine that contradict each other.

    Raises:
        KVError: they do.
    """
    if weights not in (None, "q8", "q4"):
        raise KVError(f"weights={weights!r} is not q8 or q4; load the model in another dtype instead")
    if weights is not None and not packed:
        raise KVError(f"weights={weights!r} packs the linear layers and packed=False does not; leave one of them out")
    if weights is None and gate_text is not None:
        raise KVError("gate_text is measured for quantised weights only; give weights='q8' or 'q4', or leave it out")


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
