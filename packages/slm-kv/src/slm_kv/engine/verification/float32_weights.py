"""Holding a model's weights in float32 for a while, most of them one layer at a time.

In bfloat16 the logits of two right implementations differ by 2 %, as much as those of a wrong one may; in float32, by a
millionth. Copies of all weights in float32 would take twice the memory of the model. A linear layer's weight is needed
only while the layer computes, so all of them share the memory of the largest.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slm_kv.mapped_files import CopiedWeights

LINEAR = (nn.Linear, Conv1D)  # exactly these types: a subclass may do something else with its weight
MEMORY_SHARE = 0.5  # of the free memory: the most that float32 copies may take
MAX_CPU_PARAMETERS = 1e9  # more would take seconds on a CPU

Weights = Mapping[nn.Parameter, Tensor]  # what they hold outside of the context
Layers = Mapping[nn.Parameter, list[nn.Module]]  # linear layers by their weight


@contextmanager
def float32_weights(model: nn.Module, forward: Callable[[], Tensor], *, shared: bool = False) -> Generator[bool]:
    """Hold the weights in float32 for a while.

    Args:
        model: The model.
        forward: Computes the model's logits. NaN among them shows that the weight of a linear layer is read outside of
            the layer: then all weights are copied.
        shared: Whether another model that may run meanwhile shares the weights: then none is touched.

    Yields:
        Whether all weights are in float32: not if some are quantized or memory is short.
    """
    low = {parameter: parameter.data for parameter in model.parameters() if parameter.dtype is not torch.float32}
    plain = all(type(data) is Tensor and data.dtype in (torch.bfloat16, torch.float16) for data in low.values())
    if not low or shared or not plain:
        yield not low
        return
    try:
        with ExitStack() as layers:
            yield _hold_by_layer(model, low, forward, layers) or _hold_all(low)
    finally:
        for parameter, data in low.items():
            parameter.data = data


def _hold_by_layer(model: nn.Module, low: Weights, forward: Callable[[], Tensor], layers: ExitStack) -> bool:
    """Hold the weights of linear layers in float32 while the layer computes, and all others; return whether it works.

    Meanwhile those of the linear layers are NaN, without taking memory.
    """
    linear = _linear_layers(model, low)
    others = low.keys() - linear.keys()
    largest = max((weight.numel() for weight in linear), default=0)
    if not _fits(sum(parameter.numel() for parameter in low), largest + _numbers(others), next(iter(low)).device):
        return False
    with ExitStack() as stack:
        _copy(low, others)
        shared_N = torch.empty(largest, dtype=torch.float32, device=next(iter(low)).device)
        for parameter, modules in linear.items():
            _hold_while_computing(parameter, low[parameter], modules, shared_N, stack)
        if not _is_finite(forward):
            return False
        layers.push(stack.pop_all())
    return True


def _is_finite(forward: Callable[[], Tensor]) -> bool:
    try:
        return bool(forward().isfinite().all())
    except Exception:  # whatever the model's own code raises, it raises again where it is expected
        return False


def _hold_all(low: Weights) -> bool:
    """Hold copies of all weights; return whether memory suffices."""
    numbers = _numbers(low)
    if not _fits(numbers, numbers, next(iter(low)).device):
        return False
    _copy(low, low)
    return True


def _linear_layers(model: nn.Module, low: Weights) -> Layers:
    """The linear layers by the weights that nothing else has, without those below adapters, which read them."""
    owners: dict[nn.Parameter, list[nn.Module]] = defaultdict(list)
    adapted = {id(getattr(module, "base_layer", None)) for module in model.modules()}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[parameter].append(module)
    return {
        parameter: modules
        for parameter, modules in owners.items()
        if parameter in low and all(_is_linear(module, parameter) and id(module) not in adapted for module in modules)
    }


def _is_linear(module: nn.Module, parameter: nn.Parameter) -> bool:
    return type(module) in LINEAR and module.weight is parameter


def _copy(low: Weights, parameters: Collection[nn.Parameter]) -> None:
    copied = CopiedWeights()
    for parameter in parameters:
        parameter.data = low[parameter].float()
        copied.add(low[parameter].nbytes)


def _hold_while_computing(
    parameter: nn.Parameter, data: Tensor, modules: list[nn.Module], shared_N: Tensor, stack: ExitStack
) -> None:
    """Give ``parameter`` a copy of ``data`` in ``shared_N`` while one of ``modules`` computes, and NaN otherwise."""
    copy = shared_N[: data.numel()].view(data.shape)
    unreadable = shared_N.new_full((), torch.nan).expand(data.shape)

    def fill(*_: Any) -> None:
        parameter.data = copy.copy_(data)

    def empty(*_: Any) -> None:
        parameter.data = unreadable

    empty()
    for module in modules:
        stack.callback(module.register_forward_pre_hook(fill).remove)
        stack.callback(module.register_forward_hook(empty).remove)


def _numbers(parameters: Collection[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _fits(computed: int, copied: int, device: torch.device) -> bool:
    """Whether a model of ``computed`` parameters is not too slow, and so many copies fit into memory."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif computed <= MAX_CPU_PARAMETERS:
        free = _free_memory()
    else:
        return False
    return 4 * copied <= MEMORY_SHARE * free


def _free_memory() -> int:
    """The memory in bytes that Linux can give; elsewhere that of the machine."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
