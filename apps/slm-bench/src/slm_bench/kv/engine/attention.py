"""Decode attention over scattered pages, compared with torch's own over contiguous keys: the cost of paging alone.

As in a decode step, a pass calls all layers, each with keys and values of its own, so that the keys of a layer are no
longer in the CPU's innermost caches when it is called again.

Shape suffixes: S sequences, L tokens of each, H query heads, G key-value heads, D dimensions of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import Ratio, Times, time_interleaved
from slm_bench.kv.engine.contenders import PAGE_SIZE
from slm_kv import LayerAttention, LayerShape, PagedStorage, StepBatch, select_attention

Layers = Sequence[tuple[Tensor, Tensor]]  # contiguous keys and values of each layer, [S, G, L, D]

ROUNDS = 9
MIN_CALLS = 20  # per round: a single call takes microseconds, too short to time


@dataclass(frozen=True)
class AttentionMeasurement:
    """Times of one layer; field names are JSON keys."""

    sequences: int
    tokens: int
    paged: Times
    contiguous: Times
    ratio: Ratio  # speed over pages, relative to contiguous keys
    difference: float  # maximum absolute difference of the outputs


def measure(model: Any, sizes: Sequence[tuple[int, int]]) -> list[AttentionMeasurement]:
    """Measure layers of ``model``'s shape at each pair of (number of sequences, tokens of each)."""
    return [_measure(*_random_inputs(model, sequences, tokens)) for sequences, tokens in sizes]


@torch.inference_mode()
def _measure(query_SHD: Tensor, layers: Layers) -> AttentionMeasurement:
    (heads, dim), (sequences, groups, tokens, _) = query_SHD.shape[1:], layers[0][0].shape
    batch, attend = _scatter(query_SHD, layers), select_attention(query_SHD.device, query_SHD.dtype)
    passes, options = -(-MIN_CALLS // len(layers)), LayerAttention(dim**-0.5)

    def paged() -> list[Tensor]:
        return [
            attend(query_SHD, keys[:, :, -1], values[:, :, -1], layer, batch, options)
            for layer, (keys, values) in enumerate(layers)
        ]

    def contiguous() -> list[Tensor]:
        sdpa = nn.functional.scaled_dot_product_attention
        return [sdpa(query_SHD[:, :, None], keys, values, enable_gqa=groups != heads) for keys, values in layers]

    def run_passes(attend_all: Callable[[], list[Tensor]]) -> None:
        for _ in range(passes):
            attend_all()
        if query_SHD.is_cuda:
            torch.cuda.synchronize()

    times = time_interleaved({"paged": lambda: run_passes(paged), "contiguous": lambda: run_passes(contiguous)}, ROUNDS)
    pages, plain = (times[name].per_call(passes * len(layers)) for name in ("paged", "contiguous"))
    outputs = zip(paged(), contiguous(), strict=True)
    difference = max(float((ours.float() - theirs[:, :, 0].float()).abs().max()) for ours, theirs in outputs)
    return AttentionMeasurement(sequences, tokens, pages, plain, pages.speed_over(plain), difference)


def _random_inputs(model: Any, sequences: int, tokens: int) -> tuple[Tensor, Layers]:
    config = model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype=model.dtype, device=model.device)

    shape = (sequences, groups, tokens, dim)
    layers = [(normal(*shape), normal(*shape)) for _ in range(config.num_hidden_layers)]
    return normal(sequences, heads, dim), layers


def _scatter(query_SHD: Tensor, layers: Layers) -> StepBatch:
    """Copy the keys and values to randomly ordered pages, as in a busy pool, and return a step that reads them."""
    sequences, groups, tokens, dim = layers[0][0].shape
    dtype, device = query_SHD.dtype, query_SHD.device
    pages_each = -(-tokens // PAGE_SIZE)
    pages = torch.randperm(sequences * pages_each, generator=torch.Generator().manual_seed(0)).view(sequences, -1)
    shapes = [LayerShape(groups, dim)] * len(layers)
    storage = PagedStorage(shapes, sequences * pages_each, PAGE_SIZE, dtype, device)
    positions = torch.arange(tokens)
    slots_SL = (pages[:, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE).to(device)
    for layer, keys_and_values in enumerate(layers):
        for stored, plain in zip((storage.keys[layer], storage.values[layer]), keys_and_values, strict=True):
            stored.flatten(0, 1)[slots_SL.flatten()] = plain.transpose(1, 2).flatten(0, 1)
    lengths = torch.full((sequences,), tokens, dtype=torch.int32, device=device)
    return StepBatch(storage, slots_SL[:, -1].contiguous(), pages.int().to(device), lengths, ())


def compare(measured: Sequence[AttentionMeasurement]) -> Comparison:
    """Return speeds over pages, relative to contiguous keys."""
    rows = []
    for size in measured:
        figures: dict[str, Figure] = {
            "pages, us": size.paged.median * 1e6,
            "one piece, us": size.contiguous.median * 1e6,
        }
        figures["largest difference"] = f"{size.difference:.0e}"
        rows.append(Row(f"{size.sequences} x {size.tokens} tokens", {"speed / one piece's": size.ratio}, figures))
    return Comparison("attention of a decode step: scattered pages", tuple(rows))
