"""Training steps of each method: time, memory and trainable parameters."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slm_bench.adapters.contenders import Contender
from slm_bench.adapters.methods import REFERENCE
from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.interleaved_timing import Times, time_interleaved
from slm_train import LiveTensors, count_parameters


@dataclass(frozen=True)
class StepCost:
    """Cost of one method; field names are JSON keys."""

    name: str
    trainable: int  # parameters
    times: Times
    saved: int  # bytes that autograd saves for the backward pass
    peak: int  # maximum bytes of tensors alive during a step, without the base's weights
    operations: int  # torch operations of a micro-batch, without views


def measure(contenders: Sequence[Contender], input_ids: Tensor, rounds: int) -> list[StepCost]:
    """Measure a step of each contender; the base alone comes first."""
    title = f"training steps of {len(contenders)} contenders"
    print(f"{title}: memory and operations", file=sys.stderr, flush=True)
    warm_up(contenders, input_ids)
    counters = (saved_bytes, peak_bytes, operations)
    counts = [[count(contender, input_ids) for count in counters] for contender in contenders]
    trainable = [count_parameters(contender.model).trainable for contender in contenders]
    steps = {contender.name: partial(contender.step, input_ids) for contender in contenders}
    times = time_interleaved(steps, rounds, title)
    costs = zip(times.items(), trainable, counts, strict=True)
    return [StepCost(name, parameters, seconds, *counted) for (name, seconds), parameters, counted in costs]


class OperationCounter(TorchDispatchMode):
    """Counts operations that compute or copy. On a GPU each launches a kernel or more; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (operation.is_view or operation is torch.ops.aten._unsafe_view.default)
        return operation(*args, **(kwargs or {}))


def warm_up(contenders: Sequence[Contender], input_ids: Tensor) -> None:
    """Run one step of each, which creates the optimizers' states."""
    for contender in contenders:
        contender.step(input_ids)


def compare(costs: Sequence[StepCost], shape: tuple[int, int]) -> Comparison:
    """Return step times over those of LoRA without dropout; ``shape``: rows and tokens of a step."""
    frozen = costs[0]
    reference = next(cost for cost in costs if cost.name == REFERENCE)
    rows = []
    for cost in costs:
        ratios = {} if cost is reference else {"step time / LoRA's": reference.times.speed_over(cost.times)}
        memory = {"kept over the base, MiB": (cost.saved - frozen.saved) / 2**20, "peak, MiB": cost.peak / 2**20}
        counts = {"trainable": cost.trainable, "operations": cost.operations}
        rows.append(Row(cost.name, ratios, {"step, s": cost.times.median, **counts, **memory}))
    return Comparison(f"a training step, {shape[0]} x {shape[1]} tokens", tuple(rows))


def saved_bytes(contender: Contender, input_ids: Tensor) -> int:
    """Return the bytes of distinct storages that autograd saves, without parameters and buffers."""
    model, saved = contender.model, dict[int, Any]()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage  # kept alive, so that no later storage gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contender.step(input_ids)
    return sum(storage.nbytes() for storage in saved.values())


def operations(contender: Contender, input_ids: Tensor) -> int:
    """Return the operations of forward and backward, as for the first micro-batch of an optimizer step."""
    with OperationCounter() as counter:
        contender.micro_batch(input_ids)
    if contender.optimizer is not None:
        contender.optimizer.zero_grad()
    return counter.count


def peak_bytes(contender: Contender, input_ids: Tensor) -> int:
    """Return the maximum bytes of tensors that a step holds at a time."""
    with LiveTensors() as live:
        live.ignore(contender.model)
        contender.step(input_ids)
    return live.highest
