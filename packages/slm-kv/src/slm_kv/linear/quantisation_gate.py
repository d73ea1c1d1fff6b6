"""Quantised weights, accepted only if they raise the perplexity on a text by at most a limit."""

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
from slm_kv.linear.quantised_linear import rounding_inputs
from slm_kv.linear.quantised_selection import QuantisedFormat
from slm_kv.peft_models import each_adapter

MAX_RISES: dict[QuantisedFormat, float] = {"q8": 0.01, "q4": 0.03}  # relative rises of perplexity that are accepted
MIN_TOKENS = 1000  # predicted tokens; with fewer the measured rise is mostly noise
MAX_TOKENS = 16_384  # tokens of a text that are evaluated
BLOCK_SIZE = 512  # tokens in a row, unless the model has fewer positions


@dataclass(frozen=True)
class QuantisedModel:
    """A model whose layers ``pack_quantised`` replaced, and the measured rise of its perplexity.

    Attributes:
        packed: The replaced layers.
        plain_weights: The original weights by layer, until ``forget_plain_weights``.
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
        limit = f"limit {100 * MAX_RISES[self.weights]:g} %"
        return f"perplexity {100 * self.rise:+.2f} %{at_most} on {self.tokens:,} tokens ({limit})"

    @property
    def weights(self) -> QuantisedFormat:
        """The format."""
        assert self.packed.weights is not None
        return self.packed.weights

    @property
    def layer_summary(self) -> str:
        """How many layers are packed, in words."""
        return self.packed.layer_summary

    @property
    def layers(self) -> dict[str, Any]:
        """The original layers by name."""
        return self.packed.layers

    def forget_plain_weights(self) -> None:
        """Free the memory of the original weights. After that ``unpack`` gives the layers the rounded ones."""
        self.plain_weights.clear()

    def unpack(self) -> None:
        """Put the original layers back with their original weights: the same tensors, unless they were forgotten."""
        _restore(self.packed, self.plain_weights)


def pack_quantised(
    model: nn.Module,
    weights: QuantisedFormat,
    token_rows: Sequence[Sequence[int]],
    max_rise: float | None = None,
    *,
    plain: Container[nn.Module] = (),
) -> QuantisedModel:
    """Quantise the linear layers of ``model``, if its perplexity rises by at most ``max_rise``.

    The rise is measured without adapters and, for a PeftModel, with each of them, and with inputs rounded as for few
    rows. The plain weights are kept for ``QuantisedModel.unpack``, until ``forget_plain_weights``.
    ``pack(model, weights="q8")`` frees the plain weights, and measures nothing.

    Args:
        model: In eval mode and with its own attention implementation.
        weights: ``q8`` or ``q4``.
        token_rows: Token ids, each row of at most as many as the model has positions.
        max_rise: A relative rise, 0.01 for 1 %; the default is that of ``MAX_RISES``.
        plain: Layers that stay plain, see ``pack``.

    Raises:
        KVError: perplexity rises further or becomes NaN, there are fewer than MIN_TOKENS tokens, or no layer can be
            quantised. The model is then as it was, to the bit.
    """
    tokens = sum(max(0, len(row) - 1) for row in token_rows)
    if tokens < MIN_TOKENS:
        raise KVError(
            f"the text on which {weights} is measured predicts {tokens:,} tokens; give one of at least {MIN_TOKENS:,}"
        )
    before = _nats_by_adapter(model, token_rows)
    plain_weights = {module: module.weight for module in model.modules() if type(module) in (nn.Linear, Conv1D)}
    packed = pack(model, weights=weights, plain=plain)
    try:
        if not packed.quantised_layers:
            raise KVError(
                f"no linear layer can be held in {weights}: it must be float32 or bfloat16, on a CPU, with a multiple "
                f"of 32 inputs; leave {weights} out"
            )
        with rounding_inputs(model.modules()):
            after = _nats_by_adapter(model, token_rows)
        rises = {name: _relative_rise(after[name] - before[name]) for name in before}
        _check_rises(rises, weights, MAX_RISES[weights] if max_rise is None else max_rise, tokens)
    except BaseException:
        _restore(packed, {layer: plain_weights[layer] for layer in packed.layers.values()})
        raise
    return QuantisedModel(packed, {layer: plain_weights[layer] for layer in packed.layers.values()}, rises, tokens)


def _check_rises(rises: dict[str | None, float], weights: QuantisedFormat, max_rise: float, tokens: int) -> None:
    for name, rise in rises.items():
        if not rise <= max_rise:  # not `>`: NaN is refused too
            whose = "" if name is None else f" of adapter {name}"
            remedy = "take q8 or leave q4 out" if weights == "q4" else "leave q8 out"
            raise KVError(
                f"{weights} raises the perplexity{whose} by {100 * rise:.2f} % on {tokens:,} tokens, more than "
                f"{100 * max_rise:g} %; {remedy}"
            )


def perplexity_rise(model: nn.Module, weights: QuantisedFormat, token_rows: Sequence[Sequence[int]]) -> float:
    """Measure the relative rise of the perplexity of ``model`` in q8 or q4. The model keeps its plain weights.

    Raises:
        KVError: as in ``pack_quantised``, except that a finite rise of any size is accepted.
    """
    packed = pack_quantised(model, weights, token_rows, math.inf)
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
    for layer, weight in plain_weights.items():
        layer.weight = weight
    packed.unpack()
