"""A training step of each method: time, memory and parameters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from slm_bench.adapters.contenders import Contender
from slm_bench.adapters.methods import REFERENCE
from slm_bench.comparison import Comparison, Row
from slm_bench.turns import Times, in_turns
from slm_train import LiveTensors


@dataclass(frozen=True)
class Cost:
    """Of one method. ``saved``: bytes that autograd keeps for the way back; ``peak``: the most that tensors held at
    once during a step, the base's weights left out."""

    name: str
    trainable: int
    times: Times
    saved: int
    peak: int


def measure(found: Sequence[Contender], input_ids: Tensor, rounds: int) -> list[Cost]:
    """A step of each in each turn. The base alone is the first."""
    title = f"training steps, {len(found)} ways"
    print(f"{title}: memory, in three steps of each", file=sys.stderr, flush=True)
    warm_up(found, input_ids)
    saved, peaks = ([weigh(one, input_ids) for one in found] for weigh in (saved_bytes, peak_bytes))
    times = in_turns({one.name: partial(one.step, input_ids) for one in found}, rounds, title)
    return [
        Cost(one.name, one.trainable, times[one.name], kept, peak)
        for one, kept, peak in zip(found, saved, peaks, strict=True)
    ]


def warm_up(found: Sequence[Contender], input_ids: Tensor) -> None:
    """A step of each, which makes the optimizers' states."""
    for one in found:
        one.step(input_ids)


def compare(costs: Sequence[Cost], shape: tuple[int, int]) -> Comparison:
    """Step times over LoRA's."""
    frozen = costs[0]
    reference = next(cost for cost in costs if cost.name == REFERENCE)
    rows = tuple(
        Row(
            cost.name,
            {} if cost is reference else {"step time / LoRA's": reference.times.over(cost.times)},
            {
                "step, s": cost.times.median,
                "trainable": cost.trainable,
                "kept over the base, MiB": (cost.saved - frozen.saved) / 2**20,
                "peak, MiB": cost.peak / 2**20,
            },
        )
        for cost in costs
    )
    return Comparison(f"a training step, {shape[0]} x {shape[1]} tokens", rows)


def saved_bytes(one: Contender, input_ids: Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps, weights left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*one.model.parameters(), *one.model.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        one.step(input_ids)
    return sum(storage.nbytes() for storage in kept.values())


def peak_bytes(one: Contender, input_ids: Tensor) -> int:
    """The most that tensors made during a step held at once."""
    with LiveTensors() as live:
        live.ignore(one.model)
        one.step(input_ids)
    return live.highest
