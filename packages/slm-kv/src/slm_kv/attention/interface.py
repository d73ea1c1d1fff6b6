"""Plugs paged attention into transformers' attention interface: an attention and a mask function, registered by name.

Shapes: B x T tokens as the model has them, N = B * T rows, H heads, G heads of keys and values, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from slm_kv.attention.backends import Attend
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.step_batch import StepBatch
from slm_kv.errors import KVError, UnsupportedModel
from slm_kv.pages.storage import LayerShape
from slm_kv.peft_models import adapter_names

IMPLEMENTATION = "slm_paged"
# Options of some models' attention that paged attention does not compute: ignoring them would change the text.
UNSUPPORTED_OPTIONS = ("position_bias",)


@dataclass(frozen=True)
class AttentionStep:
    """The step that a forward pass computes, passed to every layer's attention as the keyword argument ``paged``."""

    batch: StepBatch
    attend: Attend


@dataclass
class AttentionProbe:
    """Records what each layer requires of attention when it is passed instead of an AttentionStep."""

    layers: dict[int, LayerShape] = field(default_factory=dict)
    windows: dict[int, int | None] = field(default_factory=dict)

    @property
    def window(self) -> int | None:
        """The longest sliding window of all layers; None if a layer has none and attends to all tokens."""
        windows = [window for window in self.windows.values() if window is not None]
        return max(windows) if windows and len(windows) == len(self.layers) else None


def install(models: Sequence[PreTrainedModel]) -> AttentionProbe:
    """Switch ``models`` to paged attention, and return what their layers require of it.

    Raises:
        UnsupportedModel: a model does not use transformers' attention interface in every layer or needs an option that
            paged attention lacks.
        KVError: the models differ, so that they cannot share pages.
    """
    _register()
    first, *others = [_install(model) for model in models]
    if any(other != first for other in others):
        raise KVError("the models have different layers and cannot share pages: give models of one base")
    return first


def _install(model: PreTrainedModel) -> AttentionProbe:
    model.set_attn_implementation(IMPLEMENTATION)
    probe = _probe(model)
    if sorted(probe.layers) != list(range(len(probe.layers))) or not probe.layers:
        raise UnsupportedModel(
            f"{_class_name(model)} does not use transformers' attention interface in every layer; "
            "use the model's own generate"
        )
    return probe


@cache
def _register() -> None:
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Make no mask: a row attends to the tokens in its own sequence's pages, up to itself."""


def _attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    paged: AttentionStep | AttentionProbe | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    if paged is None:
        raise KVError("this model has paged attention: call it through its Engine, or set another attn_implementation")
    if isinstance(paged, AttentionProbe):
        return _record(paged, module, query_BHTD, key_BGTD, value_BGTD, options), None
    layer_attention = _layer_attention(query_BHTD, scaling, options)
    query, key, value = (_rows(tensor) for tensor in (query_BHTD, key_BGTD, value_BGTD))
    out_NHD = paged.attend(query, key, value, _layer_index(module), paged.batch, layer_attention)
    return out_NHD.view(query_BHTD.shape[0], query_BHTD.shape[2], *out_NHD.shape[1:]), None


def _layer_attention(query_BHTD: Tensor, scaling: float | None, options: dict[str, Any]) -> LayerAttention:
    scale = 1 / math.sqrt(query_BHTD.shape[-1]) if scaling is None else scaling
    return LayerAttention(scale, options.get("sliding_window") or None, options.get("softcap"), options.get("s_aux"))


def _rows(tensor_BHTD: Tensor) -> Tensor:
    """[N, H, D]: a view, because either B or T is 1."""
    return tensor_BHTD.transpose(1, 2).flatten(0, 1)


def _layer_index(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise UnsupportedModel(
            f"{type(module).__name__} has no layer_idx, which paged attention needs to find the layer's pages; "
            "use the model's own generate"
        )
    return index


def _record(
    probe: AttentionProbe, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
) -> Tensor:
    """Record one layer's call, and return a tensor of the output's shape."""
    unsupported = [name for name in UNSUPPORTED_OPTIONS if options.get(name) is not None]
    if not getattr(module, "is_causal", True):
        unsupported.append("attention that is not causal")
    if key.shape != value.shape:
        unsupported.append("keys and values of different shapes")
    if unsupported:
        raise UnsupportedModel(
            f"{type(module).__name__} needs {unsupported[0]}, which paged attention does not support; "
            "use the model's own generate"
        )
    index = _layer_index(module)
    probe.layers[index] = LayerShape(key.shape[1], key.shape[3])
    probe.windows[index] = _layer_attention(query, None, options).window
    return query.transpose(1, 2)


@torch.inference_mode()
def _probe(model: PreTrainedModel) -> AttentionProbe:
    """Run one token through the model and record what its layers require."""
    probe = AttentionProbe()
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(token, position_ids=token, use_cache=False, paged=probe)
    return probe


def _class_name(model: PreTrainedModel) -> str:
    return type(getattr(model, "base_model", model)).__name__ if adapter_names(model) else type(model).__name__
