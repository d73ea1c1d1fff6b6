"""Decode attention over pages against torch's own over keys that lie in one piece: the price of paging alone.

As in a step, one call follows another over the layers' own keys and values, so that a layer's are no longer in the
CPU's nearest caches when its turn comes again.

Shapes: S sequences, L tokens each, H heads, G heads of keys and values, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slm_bench.engine.ways import PAGE_SIZE
from slm_bench.turns import Times, in_turns
from slm_kv import LayerShape, PagedStorage, StepBatch
from slm_kv import select_attention as attend_for

ROUNDS, CALLS = 9, 20  # a turn is at least so many calls, each of another layer


@dataclass(frozen=True)
class Measured:
    """Times of one layer. ``ratio``: the speed of pages over that of one piece; ``difference``: the largest of their
    outputs."""

    sequences: int
    tokens: int
    paged: Times
    contiguous: Times
    ratio: tuple[float, float, float]
    difference: float


@dataclass(frozen=True)
class Contiguous:
    """What each layer attends to: keys and values as [S, G, L, D]."""

    query_SHD: Tensor
    layers: Sequence[tuple[Tensor, Tensor]]


def measure(model: Any, sizes: Sequence[tuple[int, int]]) -> list[Measured]:
    """All layers of ``model``'s shape, at several numbers of sequences and tokens of each, in turns."""
    return [_measure(_draw(model, sequences, tokens)) for sequences, tokens in sizes]


@torch.inference_mode()
def _measure(given: Contiguous) -> Measured:
    query_SHD, layers = given.query_SHD, given.layers
    (heads, dim), (sequences, groups, tokens, _) = query_SHD.shape[1:], layers[0][0].shape
    batch, attend = _scatter(given), attend_for(query_SHD.device, query_SHD.dtype)
    walks = -(-CALLS // len(layers))

    def paged() -> list[Tensor]:
        return [
            attend(query_SHD, keys[:, :, -1], values[:, :, -1], layer, batch, dim**-0.5)
            for layer, (keys, values) in enumerate(layers)
        ]

    def contiguous() -> list[Tensor]:
        one = nn.functional.scaled_dot_product_attention
        return [one(query_SHD[:, :, None], keys, values, enable_gqa=groups != heads) for keys, values in layers]

    def walk(way: Any) -> None:
        for _ in range(walks):
            way()
        if query_SHD.is_cuda:
            torch.cuda.synchronize()

    times = in_turns({"paged": lambda: walk(paged), "contiguous": lambda: walk(contiguous)}, ROUNDS)
    one, other = (times[name].each(walks * len(layers)) for name in ("paged", "contiguous"))
    pairs = zip(paged(), contiguous(), strict=True)
    difference = max(float((ours.float() - plain[:, :, 0].float()).abs().max()) for ours, plain in pairs)
    return Measured(sequences, tokens, one, other, one.over(other), difference)


def _draw(model: Any, sequences: int, tokens: int) -> Contiguous:
    config, like = model.config, {"dtype": model.dtype, "device": model.device}
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(**like)

    shape = (sequences, groups, tokens, dim)
    layers = [(normal(*shape), normal(*shape)) for _ in range(config.num_hidden_layers)]
    return Contiguous(normal(sequences, heads, dim), layers)


def _scatter(given: Contiguous) -> StepBatch:
    """The same keys and values over pages in no order, as those of a busy pool lie, and a step that reads them."""
    sequences, groups, tokens, dim = given.layers[0][0].shape
    dtype, device = given.query_SHD.dtype, given.query_SHD.device
    pages_each = -(-tokens // PAGE_SIZE)
    pages = torch.randperm(sequences * pages_each, generator=torch.Generator().manual_seed(0)).view(sequences, -1)
    shapes = [LayerShape(groups, dim)] * len(given.layers)
    storage = PagedStorage(shapes, sequences * pages_each, PAGE_SIZE, dtype, device)
    places = torch.arange(tokens)
    slots_SL = (pages[:, places // PAGE_SIZE] * PAGE_SIZE + places % PAGE_SIZE).to(device)
    for layer, both in enumerate(given.layers):
        for stored, plain in zip((storage.keys[layer], storage.values[layer]), both, strict=True):
            stored.flatten(0, 1)[slots_SL.flatten()] = plain.transpose(1, 2).flatten(0, 1)
    lengths = torch.full((sequences,), tokens, dtype=torch.int32, device=device)
    return StepBatch(storage, slots_SL[:, -1].contiguous(), pages.int().to(device), lengths, ())
