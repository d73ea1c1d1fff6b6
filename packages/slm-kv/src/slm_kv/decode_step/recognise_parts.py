"""Recognising the parts of a layer: linear layers, attention, and the feed-forward network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.probe import AttentionProbe
from slm_kv.decode_step.behaviour import activation_kind, as_float32, recognise_norm, recognise_rotary
from slm_kv.decode_step.blocks import Attention, FeedForward, Linear, Norm, Rotary
from slm_kv.decode_step.source_reads import unknown_reads
from slm_kv.errors import KVError
from slm_kv.linear.packed_linear import PackedLayer
from slm_kv.peft_models import without_adapters

IGNORED = (nn.Dropout, nn.Identity)
QUERY_KEY_VALUE = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("c_attn",), ("query_key_value",))
ATTENTION_OUTPUT = ("o_proj", "out_proj", "c_proj", "dense")
GATED = (("gate_proj", "up_proj"), ("gate_up_proj",))
UNGATED = (("fc1",), ("c_fc",), ("up_proj",), ("dense_h_to_4h",))
FEED_FORWARD_OUTPUT = ("down_proj", "fc2", "c_proj", "dense_4h_to_h")
ACTIVATION = ("act_fn", "act", "activation_fn")
NORMS = (("q_norm", "k_norm"), ("q_layernorm", "k_layernorm"))
# Settings that only choose what the probe has recorded, or shapes.
ATTENTION_READS = frozenset(
    [
        "head_dim",
        "num_heads",
        "num_key_value_heads",
        "num_attention_heads",
        "num_key_value_groups",
        "scaling",
        "attention_dropout",
        "layer_idx",
        "training",
        "is_causal",
        "_attn_implementation",
        "sliding_window",
        "is_sliding",
        "attn_logit_softcapping",
        "hidden_size",
        "split_size",
        "reorder_and_upcast_attn",
        "use_rope",
        "rotary_ndims",
        "rotary_emb",
        "dropout",
        "embed_dim",
        "layer_type",
        "head_size",
        "resid_dropout",
        "attn_dropout",
        "residual_dropout",
        "_upcast_and_reordered_attn",
        "kv_dim",
        "multi_query",
    ]
)
FEED_FORWARD_READS = frozenset(
    ["training", "dropout", "residual_dropout", "config", "hidden_size", "intermediate_size"]
)


class NotRecognised(KVError):
    """A part of a model is not understood; the message is a clause that names it."""


def require(condition: object, reason: str) -> None:
    """Raise NotRecognised unless ``condition``."""
    if not condition:
        raise NotRecognised(reason)


class Children:
    """The children of a module; each must be taken by a name that is understood."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(module).__name__
        self._left = {name: child for name, child in module.named_children() if not isinstance(child, IGNORED)}
        own = [name for name, _ in module.named_parameters(recurse=False)]
        require(not own, f"{self.name} has the parameter {', '.join(own)}")

    def take(self, *names: str) -> Any:
        """The child with one of these names; None if there is none."""
        return next((self._left.pop(name) for name in names if name in self._left), None)

    def take_group(self, *groups: tuple[str, ...]) -> tuple[Any, ...]:
        """All children of the first group of names that is complete; () if none is."""
        group = next((group for group in groups if self._left.keys() >= set(group)), ())
        return tuple(self._left.pop(name) for name in group)

    def finish(self) -> None:
        """Refuse what is left."""
        require(not self._left, f"{self.name} has the part {', '.join(self._left)}")


def linear(module: Any) -> Linear:
    """A packed linear layer, without the adapters around it."""
    own = without_adapters(module)
    require(
        isinstance(own, PackedLayer) and getattr(own, "block_weight", None) is not None,
        f"{type(own).__name__} is no packed linear layer",
    )
    return Linear(own, as_float32(own.bias), module)


def optional_norm(module: Any, width: int) -> Norm | None:
    """The norm of a module, or None if there is no module."""
    if module is None:
        return None
    module = without_adapters(module)
    norm = recognise_norm(module, width)
    require(norm is not None, f"{type(module).__name__} is an unknown norm")
    return norm


def recognise_attention(module: Any, rotary_module: Any, probe: AttentionProbe, index: int) -> Attention:
    """Describe one layer's attention."""
    children = Children(module)
    by_head = hasattr(module, "query_key_value") or getattr(module, "multi_query", None) is False
    inputs = tuple(linear(child) for child in children.take_group(*QUERY_KEY_VALUE))
    heads, kv_heads, dim = probe.heads[index], probe.layers[index].heads, probe.layers[index].dim
    columns = (heads + 2 * kv_heads) * dim
    require(inputs and sum(part.outputs for part in inputs) == columns, f"{children.name} has unknown inputs")
    output = linear(children.take(*ATTENTION_OUTPUT))
    require(not by_head or heads == kv_heads, f"{children.name} has unknown inputs")
    query_norm, key_norm, whole = _head_norms(children, heads, kv_heads, dim)
    require(not (by_head and whole), f"{children.name} has unknown norms")
    rotary_module = children.take("rotary_emb") or rotary_module
    children.finish()
    _require_known_reads(module, ATTENTION_READS)
    rotary = _rotary(module, rotary_module, dim)
    scores, norms = _all_scores(module, probe.scores[index]), (query_norm, key_norm, whole)
    return Attention(inputs, output, heads, kv_heads, dim, scores, rotary, *norms, by_head)


def _all_scores(module: Any, scores: LayerAttention) -> LayerAttention:
    """Scores with the factor by which a module like OPT's multiplies queries itself."""
    scaling = getattr(module, "scaling", None)
    return replace(scores, scale=scaling) if isinstance(scaling, float) and scores.scale == 1.0 else scores


def _head_norms(children: Children, heads: int, kv_heads: int, dim: int) -> tuple[Norm | None, Norm | None, bool]:
    modules = children.take_group(*NORMS)
    if not modules:
        return None, None, False
    if all(recognise_norm(module, dim) is not None for module in modules):
        return recognise_norm(modules[0], dim), recognise_norm(modules[1], dim), False
    return optional_norm(modules[0], heads * dim), optional_norm(modules[1], kv_heads * dim), True


def _rotary(attention: Any, module: Any, dim: int) -> Rotary | None:
    if module is None or not getattr(attention, "use_rope", True):
        return None
    rotary = recognise_rotary(module, attention, _layer_type(attention), dim)
    require(rotary is not None, f"{type(module).__name__} gives unknown rotary positions")
    return rotary


def _layer_type(attention: Any) -> str | None:
    types = getattr(attention.config, "layer_types", None)
    return getattr(attention, "layer_type", None) or (types[attention.layer_idx] if types else None)


def recognise_feed_forward(module: Any, children: Children | None = None) -> FeedForward:
    """Describe a feed-forward network; ``children`` of a layer that contains its parts itself."""
    own = children is None
    children = Children(module) if children is None else children
    gated = tuple(linear(child) for child in children.take_group(*GATED))
    inputs = gated or tuple(linear(child) for child in children.take_group(*UNGATED))
    require(inputs, f"{children.name} has unknown inputs")
    output = linear(children.take(*FEED_FORWARD_OUTPUT))
    activation = children.take(*ACTIVATION)
    kind = activation_kind(activation) if activation is not None else None
    require(kind, f"{children.name} has an unknown activation")
    width = output.module.in_features
    require(sum(part.outputs for part in inputs) == width * (2 if gated else 1), f"{children.name} has unknown shapes")
    if own:
        children.finish()
        _require_known_reads(module, FEED_FORWARD_READS)
    return FeedForward(inputs, output, str(kind), bool(gated), width)


def _require_known_reads(module: Any, known: frozenset[str]) -> None:
    unknown = unknown_reads(module, known)
    require(not unknown, f"{type(module).__name__} has the setting {', '.join(unknown)}")


def is_linear(module: Any) -> bool:
    """Whether a module multiplies by a weight, packed or not."""
    return isinstance(module, PackedLayer | nn.Linear | Conv1D)
