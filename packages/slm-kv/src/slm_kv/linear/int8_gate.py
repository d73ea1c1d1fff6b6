"""8-bit weights, accepted only if they raise the perplexity on a text by at most a limit."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from slm_kv.errors import KVError
from slm_kv.linear.packing import PackedModel, pack
from slm_kv.peft_models import each_adapter

MAX_RISE = 0.01  # the largest relative rise of perplexity that is accepted
MIN_TOKENS = 1000  # predicted tokens; with fewer the measured rise is mostly noise
MAX_TOKENS = 16_384  # tokens of a text that are evaluated
BLOCK_SIZE = 512  # tokens in a row, unless the model has fewer positions


@dataclass(frozen=True)
class Int8Model:
    """A model whose layers ``pack_int8`` replaced, and the measured rise of its perplexity.

    Attributes:
        packed: The replaced layers.
        plain_weights: The original weights by layer.
        rises: The relative rise of perplexity by adapter; None is the model without adapters.
        tokens: The number of predicted tokens that were measured.
    """

    packed: PackedModel
    plain_weights: dict[nn.Module, Any]
    rises: dict[str | None, float]
    tokens: int

    @property
    def rise(self) -> float:
        """The largest of ``rises``."""
        return max(self.rises.values())

    @property
    def summary(self) -> str:
        """The measurement in a few words."""
        at_most = " at most" if len(self.rises) > 1 else ""
        return f"perplexity {100 * self.rise:+.2f} %{at_most} on {self.tokens:,} tokens"

    @property
    def layers(self) -> dict[str, Any]:
        """The original layers by name."""
        return self.packed.layers

    def unpack(self) -> None:
        """Put the original layers back with their original weights: the same tensors, not rounded ones."""
        _restore(self.packed, self.plain_weights)


def pack_int8(
    model: nn.Module,
    token_rows: Sequence[Sequence[int]],
    max_rise: float = MAX_RISE,
    *,
    plain: Container[nn.Module] = (),
) -> Int8Model:
    """Pack the linear layers of ``model`` in 8 bits, if its perplexity rises by at most ``max_rise``.

    The rise is measured without adapters and, for a PeftModel, with each of them. The plain weights are kept for
    ``Int8Model.unpack``, so that memory grows by the packed weights, a quarter of their size in float32.
    ``pack(model, int8=True)`` frees the plain weights, and measures nothing.

    Args:
        model: In eval mode and with its own attention implementation.
        token_rows: Token ids, each row of at most as many as the model has positions.
        max_rise: A relative rise, 0.01 for 1 %.
        plain: Layers that stay plain, see ``pack``.

    Raises:
        KVError: perplexity rises further or becomes NaN, there are fewer than MIN_TOKENS tokens, or no layer can be
            packed. The model is then as it was, to the bit.
    """
    tokens = sum(max(0, len(row) - 1) for row in token_rows)
    if tokens < MIN_TOKENS:
        raise KVError(
            f"the text on which int8 is measured predicts {tokens:,} tokens; give one of at least {MIN_TOKENS:,}"
        )
    before = _nats_by_adapter(model, token_rows)
    plain_weights = {module: module.weight for module in model.modules() if type(module) in (nn.Linear, Conv1D)}
    packed = pack(model, int8=True, plain=plain)
    try:
        if not packed.layers:
            raise KVError(
                "no linear layer can be held in 8 bits (it must be float32 or bfloat16, on a CPU); leave int8 out"
            )
        after = _nats_by_adapter(model, token_rows)
        rises = {name: _relative_rise(after[name] - before[name]) for name in before}
        for name, rise in rises.items():
            if not rise <= max_rise:  # not `>`: NaN is refused too
                whose = "" if name is None else f" of adapter {name}"
                raise KVError(
                    f"int8 raises the perplexity{whose} by {100 * rise:.2f} % on {tokens:,} tokens, more than "
                    f"{100 * max_rise:g} %; leave int8 out"
                )
    except BaseException:
        _restore(packed, plain_weights)
        raise
    return Int8Model(packed, {layer: plain_weights[layer] for layer in packed.layers.values()}, rises, tokens)


def perplexity_rise(model: nn.Module, token_rows: Sequence[Sequence[int]]) -> float:
    """Measure the relative rise of the perplexity of ``model`` in 8 bits. The model keeps its plain weights.

    Raises:
        KVError: as in ``pack_int8``, except that a finite rise of any size is accepted.
    """
    packed = pack_int8(model, token_rows, math.inf)
    packed.unpack()
    return packed.rise


def split_rows(token_ids: Sequence[int], positions: int) -> list[Sequence[int]]:
    """Split the first MAX_TOKENS of a text into rows for a model with ``positions`` positions."""
    size, ids = min(positions, BLOCK_SIZE), token_ids[:MAX_TOKENS]
    return [ids[start : start + size] for start in range(0, len(ids), size)]


@torch.inference_mode()
def mean_nats(model: Any, token_rows: Sequence[Sequence[int]]) -> float:
    """The mean negative log-probability of each token after the first of its row: the logarithm of perplexity."""
    total, tokens = 0.0, 0
    for row in token_rows:
        if len(row) > 1:
            ids = torch.tensor([row], device=model.device)
            logits = model(ids, use_cache=False).logits[0, :-1].float()
            total += nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            tokens += len(row) - 1
    return total / tokens


def _nats_by_adapter(model: Any, token_rows: Sequence[Sequence[int]]) -> dict[str | None, float]:
    with closing(each_adapter(model)) as names:  # closing restores the active adapter if measuring is interrupted
        return {name: mean_nats(model, token_rows) for name in names}


def _relative_rise(nats_difference: float) -> float:
    """The relative rise of perplexity, exp of the mean nats. Clamped, because expm1(710) overflows; NaN for NaN."""
    return math.nan if math.isnan(nats_difference) else math.expm1(min(nats_difference, 700.0))


def _restore(packed: PackedModel, plain_weights: dict[nn.Module, Any]) -> None:
    for layer in packed.layers.values():
        layer.weight = plain_weights[layer]
    packed.unpack()
