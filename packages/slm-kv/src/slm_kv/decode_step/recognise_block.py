"""Recognising one layer: which norms it has, and in which order it uses its parts."""

from __future__ import annotations

from typing import Any

from slm_kv.attention.probe import AttentionProbe
from slm_kv.decode_step.blocks import Block, Norm
from slm_kv.decode_step.recognise_parts import (
    Children,
    NotRecognised,
    optional_norm,
    recognise_attention,
    recognise_feed_forward,
)
from slm_kv.decode_step.source_reads import unknown_reads

ATTENTION = ("self_attn", "attn", "attention")
FEED_FORWARD = ("mlp", "feed_forward")
# Names of the norms before and after attention, and before and after the feed-forward network.
ORDERS: tuple[tuple[str | None, str | None, str | None, str | None], ...] = (
    ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    ("input_layernorm", None, "post_attention_layernorm", None),
    ("input_layernorm", None, "pre_feedforward_layernorm", None),
    (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    ("ln_1", None, "ln_2", None),
    ("self_attn_layer_norm", None, "final_layer_norm", None),
    ("input_layernorm", None, None, None),
    ("ln_1", None, None, None),
)
READS = frozenset(
    [
        "hidden_size",
        "training",
        "dropout",
        "residual_multiplier",
        "use_parallel_residual",
        "attention_type",
        "layer_idx",
        "layer_type",
        "activation_dropout",
        "do_layer_norm_before",
        "hidden_dropout",
        "resid_dropout",
        "is_sliding",
    ]
)


def recognise_block(layer: Any, rotary: Any, probe: AttentionProbe, index: int, width: int) -> Block:
    """Describe layer ``index`` of a model.

    Raises:
        NotRecognised: a part of it is not understood.
    """
    children = Children(layer)
    attention = recognise_attention(children.take(*ATTENTION), rotary, probe, index)
    network = children.take(*FEED_FORWARD)
    feed_forward = recognise_feed_forward(layer, children) if network is None else recognise_feed_forward(network)
    norms = _norms(children, width)
    children.finish()
    unknown = unknown_reads(layer, READS)
    if unknown:
        raise NotRecognised(f"{children.name} has the setting {', '.join(unknown)}")
    if not getattr(layer, "do_layer_norm_before", True):
        raise NotRecognised(f"{children.name} has norms after its sums")
    parallel = norms[0] is not None and norms[1:] == (None,) * 3
    if getattr(layer, "use_parallel_residual", False):
        parallel = True
    scale = float(getattr(layer, "residual_multiplier", 1.0))
    return Block(attention, feed_forward, *norms, parallel=parallel, residual_scale=scale)


def _norms(children: Children, width: int) -> tuple[Norm | None, Norm | None, Norm | None, Norm | None]:
    for order in ORDERS:
        modules = children.take_group(tuple(name for name in order if name))
        if modules:
            by_name = dict(zip((name for name in order if name), modules, strict=True))
            before, after, before_ff, after_ff = (optional_norm(by_name.get(name or ""), width) for name in order)
            return before, after, before_ff, after_ff
    raise NotRecognised(f"{children.name} has unknown norms")
