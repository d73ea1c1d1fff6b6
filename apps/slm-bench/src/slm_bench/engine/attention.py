"""Decode attention over pages against torch's own over keys that lie in one piece: the price of paging alone.

Shapes: S sequences, L tokens each, H heads, G heads of keys and values, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slm_bench.engine.ways import PAGE_SIZE
from slm_bench.turns import in_turns
from slm_kv.attention.batch import LayerShape, PagedStorage, StepBatch
from slm_kv.attention.doors import attend_for

ROUNDS, CALLS = 9, 20
SIZES = ((1, 160), (8, 160), (32, 160), (8, 600))


@dataclass(frozen=True)
class Measured:
    """``ratio``: the speed of pages over that of one piece; ``difference``: the largest of their outputs."""

    sequences: int
    tokens: int
    paged_seconds: float
    contiguous_seconds: float
    ratio: tuple[float, float, float]
    difference: float


def measure(model: Any) -> list[Measured]:
    """One layer of ``model``'s shape, at several sizes, in turns."""
    config = model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [_measure(sequences, tokens, heads, groups, dim, model) for sequences, tokens in SIZES]


@torch.inference_mode()
def _measure(sequences: int, tokens: int, heads: int, groups: int, dim: int, model: Any) -> Measured:
    dtype, device = model.dtype, model.device
    draw = torch.Generator().manual_seed(0)
    keys_SGLD, values_SGLD = torch.randn(2, sequences, groups, tokens, dim, generator=draw).to(device, dtype)
    query_SHD = torch.randn(sequences, heads, dim, generator=draw).to(device, dtype)
    pages_each = -(-tokens // PAGE_SIZE)
    storage = PagedStorage([LayerShape(groups, dim)], sequences * pages_each, PAGE_SIZE, dtype, device)
    pages = torch.randperm(sequences * pages_each, generator=draw).view(sequences, pages_each)  # as a busy pool's lie
    places = torch.arange(tokens)
    slots_SL = pages[:, places // PAGE_SIZE] * PAGE_SIZE + places % PAGE_SIZE
    for stored, plain in ((storage.keys[0], keys_SGLD), (storage.values[0], values_SGLD)):
        stored.view(groups, -1, dim)[:, slots_SL.flatten()] = plain.transpose(0, 1).reshape(groups, -1, dim)
    lengths = torch.full((sequences,), tokens, dtype=torch.int32, device=device)
    batch = StepBatch(storage, slots_SL[:, -1].contiguous().to(device), pages.int().to(device), lengths, ())
    attend = attend_for(device, dtype)
    out: dict[str, Any] = {}

    def paged() -> None:
        for _ in range(CALLS):
            out["paged"] = attend(query_SHD, keys_SGLD[:, :, -1], values_SGLD[:, :, -1], 0, batch, dim**-0.5)

    def contiguous() -> None:
        for _ in range(CALLS):
            out["contiguous"] = nn.functional.scaled_dot_product_attention(
                query_SHD[:, :, None], keys_SGLD, values_SGLD, enable_gqa=groups != heads
            )

    times = in_turns({"paged": paged, "contiguous": contiguous}, ROUNDS)
    return Measured(
        sequences,
        tokens,
        times["paged"].median / CALLS,
        times["contiguous"].median / CALLS,
        times["paged"].over(times["contiguous"]),
        float((out["paged"].float() - out["contiguous"][:, :, 0].float()).abs().max()),
    )
