"""The doors of transformers that paged attention goes through: an attention function and a mask function by name.

Shapes: B x T tokens as the model has them, N = B * T rows, H heads, G heads of keys and values, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from slm_kv.attention import reference
from slm_kv.attention.step_batch import LayerShape, StepBatch
from slm_kv.errors import KVError
from slm_kv.optional_imports import optional

NAME = "slm_paged"
Attend = Callable[[Tensor, Tensor, Tensor, int, StepBatch, float], Tensor]
# What some models ask of attention besides a scale; where a model does, its pages would give another model's text.
UNKNOWN = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class Step:
    """What one forward pass hands to every layer's attention."""

    batch: StepBatch
    attend: Attend


@dataclass
class Probe:
    """Notes what the layers ask of attention, in one pass over one token."""

    layers: dict[int, LayerShape] = field(default_factory=dict)
    window: int | None = None  # the shortest sliding window of a layer


def open_doors(models: Sequence[PreTrainedModel]) -> Probe:
    """Have ``models`` call paged attention, and return what the layers of each need.

    Raises KVError for a model that takes no attention function, or asks more of one than pages give; and where the
    models differ, so that they cannot share pages.
    """
    _register()
    first, *others = [_open(model) for model in models]
    if any(one != first for one in others):
        raise KVError("the models differ in their layers, so that they cannot share pages: give those of one base")
    return first


def _open(model: PreTrainedModel) -> Probe:
    model.set_attn_implementation(NAME)
    found = _probe(model)
    if sorted(found.layers) != list(range(len(found.layers))) or not found.layers:
        raise KVError(f"{_name(model)} does not call its attention by transformers' interface in every layer")
    return found


def attend_for(device: torch.device, dtype: torch.dtype) -> Attend:
    """The fastest paged attention there is for a device: compiled on a CPU and on a GPU, else the reference."""
    name = {"cpu": "attention.cpu", "cuda": "attention.gpu"}.get(device.type)
    compiled = optional(name) if name else None
    return compiled.attend if compiled and dtype in compiled.DTYPES else reference.attend


@cache
def _register() -> None:
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Pages know what a row sees; there is no mask to make."""


def _attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    paged: Step | Probe | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if paged is None:
        raise KVError("this model's attention reads pages: call it by its Engine, or set another attn_implementation")
    if isinstance(paged, Probe):
        return _note(paged, module, query_BHTD, key_BGTD, value_BGTD, kwargs), None
    scale = 1 / math.sqrt(query_BHTD.shape[-1]) if scaling is None else scaling
    query, key, value = (_rows(tensor) for tensor in (query_BHTD, key_BGTD, value_BGTD))
    out_NHD = paged.attend(query, key, value, _layer(module), paged.batch, scale)
    return out_NHD.view(query_BHTD.shape[0], query_BHTD.shape[2], *out_NHD.shape[1:]), None


def _rows(tensor_BHTD: Tensor) -> Tensor:
    """[N, H, D]: a view, both of one row of tokens and of one token a row."""
    return tensor_BHTD.transpose(1, 2).flatten(0, 1)


def _layer(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise KVError(f"{type(module).__name__} does not say which layer it is, so its pages cannot be found")
    return index


def _note(probe: Probe, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: dict[str, Any]) -> Tensor:
    strange = [name for name in UNKNOWN if asked.get(name) is not None]
    if strange or not getattr(module, "is_causal", True) or key.shape != value.shape:
        asks = strange[0] if strange else "attention that is not causal, or keys and values of different shapes"
        raise KVError(f"{type(module).__name__} asks for {asks}: pages do not give that; use the model's own generate")
    if window := asked.get("sliding_window"):
        probe.window = min(window, probe.window or window)
    probe.layers[_layer(module)] = LayerShape(key.shape[1], key.shape[3])
    return query.transpose(1, 2)


@torch.inference_mode()
def _probe(model: PreTrainedModel) -> Probe:
    found = Probe()
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(token, position_ids=token, use_cache=False, paged=found)
    return found


def _name(model: PreTrainedModel) -> str:
    return type(getattr(model, "base_model", model)).__name__ if hasattr(model, "peft_config") else type(model).__name__
