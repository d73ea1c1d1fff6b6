"""What a model computes for one token, as far as compiled operations can compute it.

Shapes: D width of the residual stream, H heads, G heads of keys and values, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slm_kv.attention.layer_attention import LayerAttention


@dataclass(frozen=True, eq=False)
class Norm:
    """RMSNorm, or LayerNorm if ``center``; a constant that a model adds to the weight is part of it here."""

    weight: np.ndarray | None
    bias: np.ndarray | None
    eps: float
    center: bool


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer: its module without adapters, whose ``block_weight`` is multiplied, and its bias.

    ``place`` is the module that the model calls: the same one, or the outermost adapter around it.
    """

    module: Any
    bias: np.ndarray | None
    place: Any = None

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return int(self.module.out_features)


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary positions: the model's module, and how it pairs dimensions.

    Attributes:
        module: Maps positions to cosines and sines.
        layer_type: An argument of the module; None if it takes none.
        dim: Dimensions of a head that are rotated, the first ones.
        interleaved: Whether neighbours are a pair, rather than dimensions half of ``dim`` apart.
    """

    module: Any
    layer_type: str | None
    dim: int
    interleaved: bool


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's attention.

    ``query_norm`` and ``key_norm`` act on each head, or on all heads together if ``whole_norms``. ``by_head``: the
    outputs of the only input layer are a head's query, key and value, then those of the next head.
    """

    inputs: tuple[Linear, ...]  # of queries, keys and values; one layer may compute all three
    output: Linear
    heads: int
    kv_heads: int
    dim: int
    scores: LayerAttention
    rotary: Rotary | None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    whole_norms: bool = False
    by_head: bool = False


@dataclass(frozen=True, eq=False)
class FeedForward:
    """``output(activation(gate) * up)``, or ``output(activation(up))`` without a gate.

    ``inputs``: of the gate and of up, in this order; one layer may compute both.
    """

    inputs: tuple[Linear, ...]
    output: Linear
    activation: str
    gated: bool
    width: int


@dataclass(frozen=True, eq=False)
class Block:
    """A layer: x += scale * after(attention(before(x))), the same with the feed-forward network, one after the other.

    ``parallel``: both read the same x; without ``before_ff`` also the same normalised one.
    """

    attention: Attention
    feed_forward: FeedForward
    before_attention: Norm | None
    after_attention: Norm | None
    before_ff: Norm | None
    after_ff: Norm | None
    parallel: bool = False
    residual_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class ModelDescription:
    """A decoder.

    Attributes:
        embedding: Maps ids to [R, D].
        positions: Maps positions to what is added to the embeddings; None for rotary ones.
        embedding_scale: Of the embeddings.
        width: D.
        blocks: The layers.
        norm: Before the head.
        head: Maps to V logits.
        logit_scale: Of the head's outputs.
        logit_cap: Their soft cap; 0 for none.
    """

    embedding: Any
    positions: Any
    embedding_scale: float
    width: int
    blocks: tuple[Block, ...]
    norm: Norm | None
    head: Linear
    logit_scale: float
    logit_cap: float

    @property
    def linears(self) -> list[Linear]:
        """All linear layers."""
        parts = [part for block in self.blocks for part in (block.attention, block.feed_forward)]
        return [layer for part in parts for layer in (*part.inputs, part.output)] + [self.head]
