"""Weights in 8 bits where they cost a model next to nothing: perplexity is measured on a text, and decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from slm_kv.engine.adapters import each_alone
from slm_kv.errors import KVError
from slm_kv.linear.packing import Packed, pack

LIMIT = 0.01  # the largest relative rise of perplexity that is accepted
LEAST_TOKENS = 1000  # predicted ones: fewer say too little
MOST_TOKENS = 16_384  # what comes after them in a text is not measured
BLOCK_SIZE = 512  # tokens of a text that are predicted from each other, at most


@dataclass(frozen=True)
class Int8Layers:
    """What ``pack_int8`` replaced, and the relative ``rises`` of perplexity on ``tokens`` predicted tokens: by adapter,
    and of the model without any for None."""

    packed: Packed
    plain: dict[nn.Module, Any]  # the weights by layer
    rises: dict[str | None, float]
    tokens: int

    @property
    def rise(self) -> float:
        """The largest."""
        return max(self.rises.values())

    @property
    def summary(self) -> str:
        """What was measured, in a few words."""
        most = " at most" if len(self.rises) > 1 else ""
        return f"perplexity {100 * self.rise:+.2f} %{most} on {self.tokens:,} tokens"

    @property
    def layers(self) -> dict[str, Any]:
        """The layers that were replaced, by name."""
        return self.packed.layers

    def unpack(self) -> None:
        """Put the layers back with the weights that they had: the same tensors, not rounded ones."""
        _put_back(self.packed, self.plain)


def pack_int8(model: nn.Module, token_rows: Sequence[Sequence[int]], limit: float = LIMIT) -> Int8Layers:
    """Hold the linear layers of ``model``, in eval mode and with its own attention, in 8 bits, if that raises its
    perplexity on ``token_rows`` by ``limit`` at most: without adapters and, of a PeftModel, with each. The plain
    weights are kept for ``Int8Layers.unpack``: this gains speed and costs a quarter of float32's memory;
    ``pack(model, int8=True)`` saves memory, unmeasured.

    Raises KVError where perplexity rises further, tokens are too few to tell, or no layer can be packed. The model
    is then as it was, to the bit.
    """
    tokens = sum(max(0, len(row) - 1) for row in token_rows)
    if tokens < LEAST_TOKENS:
        raise KVError(
            f"the text on which int8 is measured predicts {tokens:,} tokens; give one of at least {LEAST_TOKENS:,}"
        )
    before = _nats_of_each(model, token_rows)
    plain = {module: module.weight for module in model.modules() if type(module) in (nn.Linear, Conv1D)}
    packed = pack(model, int8=True)
    try:
        if not packed.layers:
            raise KVError("no linear layer can be held in 8 bits (float32 or bfloat16 on a CPU can); leave int8 out")
        after = _nats_of_each(model, token_rows)
        rises = {name: _relative(after[name] - before[name]) for name in before}
        for name, rise in rises.items():
            if not rise <= limit:  # NaN is refused too
                whose = "" if name is None else f" of adapter {name}"
                raise KVError(
                    f"int8 raises the perplexity{whose} by {100 * rise:.2f} % on {tokens:,} tokens, more than "
                    f"{100 * limit:g} %; leave int8 out"
                )
    except BaseException:
        _put_back(packed, plain)
        raise
    return Int8Layers(packed, {layer: plain[layer] for layer in packed.layers.values()}, rises, tokens)


def perplexity_rise(model: nn.Module, token_rows: Sequence[Sequence[int]]) -> float:
    """How much higher the perplexity of ``model`` is in 8 bits, relative to its plain weights', which it keeps.

    Raises KVError as ``pack_int8`` does, except for a rise.
    """
    found = pack_int8(model, token_rows, math.inf)
    found.unpack()
    return found.rise


def rows_of(token_ids: Sequence[int], positions: int) -> list[Sequence[int]]:
    """A text cut into rows that a model of ``positions`` can read, as far as it is measured."""
    size, ids = min(positions, BLOCK_SIZE), token_ids[:MOST_TOKENS]
    return [ids[start : start + size] for start in range(0, len(ids), size)]


@torch.inference_mode()
def nats(model: Any, token_rows: Sequence[Sequence[int]]) -> float:
    """Mean negative log-probability of each token after the first of its row: the logarithm of perplexity."""
    total, tokens = 0.0, 0
    for row in token_rows:
        if len(row) > 1:
            ids = torch.tensor([row], device=model.device)
            logits = model(ids, use_cache=False).logits[0, :-1].float()
            total += nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            tokens += len(row) - 1
    return total / tokens


def _nats_of_each(model: Any, token_rows: Sequence[Sequence[int]]) -> dict[str | None, float]:
    """By adapter, and of the model without any for None."""
    with closing(each_alone(model)) as names:
        return {name: nats(model, token_rows) for name in names}


def _relative(more_nats: float) -> float:
    return math.expm1(min(more_nats, 700.0)) if more_nats == more_nats else math.nan


def _put_back(packed: Packed, plain: dict[nn.Module, Any]) -> None:
    for layer in packed.layers.values():
        layer.weight = plain[layer]
    packed.unpack()
