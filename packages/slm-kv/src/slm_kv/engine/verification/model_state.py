"""Contexts that change a model and put it back to the bit."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from slm_kv.mapped_files import CopiedWeights

MEMORY_SHARE = 0.5  # of the free memory: the most that float32 copies may take
MAX_CPU_PARAMETERS = 1e9  # more would take seconds on a CPU


@contextmanager
def keep_state(model: nn.Module) -> Generator[None]:
    """Restore each module's attributes and buffers, such as the frequencies of a dynamic rotary embedding."""
    saved = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in saved:
            for name in vars(module).keys() - attributes.keys():
                delattr(module, name)
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


@contextmanager
def float32_weights(
    model: nn.Module, *, shared: bool = False, copies: dict[nn.Parameter, Tensor] | None = None
) -> Generator[bool]:
    """Hold the weights in float32 for a while.

    Args:
        model: The model.
        shared: Whether another model that may run meanwhile shares the weights: then none is touched.
        copies: Float32 copies of weights that have not changed since; new ones are added. None keeps none.

    Yields:
        Whether all weights are in float32: not if some are quantized or memory is short.

    In bfloat16 the logits of two right implementations differ by 2 %, as much as those of a wrong one may; in float32,
    by a millionth.
    """
    low = {parameter: parameter.data for parameter in model.parameters() if parameter.dtype is not torch.float32}
    plain = all(type(data) is Tensor and data.dtype in (torch.bfloat16, torch.float16) for data in low.values())
    if not plain or (low and shared) or (low and not _fits(model, list(low.values()))):
        yield False
        return
    copies = {} if copies is None else copies
    try:
        copied = CopiedWeights()
        for parameter, data in low.items():
            if parameter not in copies:
                copies[parameter] = data.float()
                copied.add(data.nbytes)
            parameter.data = copies[parameter]
        yield True
    finally:
        for parameter, data in low.items():
            parameter.data = data


def return_freed_memory() -> None:
    """Return memory that was freed to the system, where the C library has a call for it.

    glibc keeps freed blocks of up to 32 MB for itself: after a model of 135 million weights was compared, 260 MB.
    """
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _fits(model: nn.Module, weights: list[Tensor]) -> bool:
    device, numbers = weights[0].device, sum(weight.numel() for weight in weights)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif numbers <= MAX_CPU_PARAMETERS:
        free = _free_memory()
    else:
        return False
    return 4 * numbers <= MEMORY_SHARE * free


def _free_memory() -> int:
    """The memory in bytes that Linux can give; elsewhere that of the machine."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
