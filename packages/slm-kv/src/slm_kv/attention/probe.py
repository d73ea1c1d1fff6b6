"""What a model's layers require of attention, recorded while one token runs through the model.

Shapes: B x T tokens as the model has them, H heads, G heads of keys and values, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.masks import MaskRecorder, UnknownMask
from slm_kv.errors import REMEDY, UnsupportedModel
from slm_kv.pages.storage import LayerShape

# Options of some models' attention that paged attention does not compute: ignoring them would change the text.
UNSUPPORTED_OPTIONS = ("position_bias",)


@dataclass
class AttentionProbe:
    """Records what each layer requires of attention.

    Attributes:
        masks: Records the masks that the model asks for.
        layers: The shape of each layer's keys.
        windows: The sliding window of each layer.
        scores: What each layer computes of queries and keys.
        heads: The number of query heads of each layer.
        softcapped: Whether a layer soft-caps its scores.
        dtype: That of the keys. The model's own is that of its first parameter, which may be an adapter's float32
            factor.
        device: That of the keys.
    """

    masks: MaskRecorder
    layers: dict[int, LayerShape] = field(default_factory=dict)
    windows: dict[int, int | None] = field(default_factory=dict)
    scores: dict[int, LayerAttention] = field(default_factory=dict, compare=False)
    heads: dict[int, int] = field(default_factory=dict)
    softcapped: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def window(self) -> int | None:
        """The longest sliding window of all layers; None if a layer has none and attends to all tokens."""
        windows = [window for window in self.windows.values() if window is not None]
        return max(windows) if windows and len(windows) == len(self.layers) else None

    @property
    def shapes(self) -> list[LayerShape]:
        """The shape of each layer's keys, in the order of the layers."""
        return [self.layers[layer] for layer in sorted(self.layers)]

    def record(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: dict[str, Any]
    ) -> Tensor:
        """Record one layer's call, [B, H or G, T, D] and the mask, and return a tensor of the output's shape.

        Raises:
            UnsupportedModel: paged attention cannot compute what the layer requires.
        """
        index = layer_index(module)
        self._check_options(module, query, key, value, options)
        if index in self.layers:
            refuse(f"{type(module).__name__} calls attention several times in a layer, which pages do not support")
        if self.layers and (key.dtype, key.device) != (self.dtype, self.device):
            refuse(
                f"the keys of {type(module).__name__} are {key.dtype} on {key.device} in one layer and {self.dtype} on "
                f"{self.device} in another, which pages cannot hold"
            )
        self.dtype, self.device = key.dtype, key.device
        self.softcapped |= options.get("softcap") is not None
        self.layers[index] = LayerShape(key.shape[1], key.shape[3])
        self.windows[index] = self._window(module, mask, options.get("sliding_window"))
        self.scores[index] = layer_attention(query, options)
        self.heads[index] = query.shape[1]
        return query.transpose(1, 2)

    def _check_options(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> None:
        unsupported = [name for name in UNSUPPORTED_OPTIONS if options.get(name) is not None]
        is_causal = options.get("is_causal")
        if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
            unsupported.append("attention that is not causal")
        if key.shape != value.shape:
            unsupported.append(f"keys of {key.shape[-1]} and values of {value.shape[-1]} numbers")
        if key.shape[2] != query.shape[2]:
            unsupported.append("keys of other tokens than the step's")
        if unsupported:
            refuse(f"{type(module).__name__} needs {unsupported[0]}, which paged attention does not support")

    def _window(self, module: nn.Module, mask: Any, option: int | None) -> int | None:
        """The layer's window, on which the mask and the option ``sliding_window`` must agree."""
        try:
            of_mask = self.masks.window_of(mask)
        except UnknownMask as error:
            refuse(f"{type(module).__name__} needs {error}, which paged attention does not support")
        of_option = option if option and option < self.masks.positions else None
        if of_mask != of_option:
            refuse(
                f"{type(module).__name__} passes sliding_window={option} and a mask "
                f"{'without a window' if of_mask is None else f'of window {of_mask}'}, so that its window is unclear"
            )
        return of_mask


def layer_attention(query_BHTD: Tensor, options: dict[str, Any]) -> LayerAttention:
    """What a call of transformers' attention interface computes of queries and keys."""
    scaling = options.get("scaling")
    scale = 1 / math.sqrt(query_BHTD.shape[-1]) if scaling is None else scaling
    return LayerAttention(scale, options.get("sliding_window") or None, options.get("softcap"), options.get("s_aux"))


def layer_index(module: nn.Module) -> int:
    """The index of an attention module's layer."""
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        refuse(f"{type(module).__name__} has no layer_idx, which paged attention needs to find the layer's pages")
    return index


def refuse(reason: str) -> NoReturn:
    """Raise UnsupportedModel for the reason."""
    raise UnsupportedModel(reason + REMEDY)
