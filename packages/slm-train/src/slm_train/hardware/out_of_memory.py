"""Out of memory: what was asked for, and which flags shrink it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slm_train.arguments import Arguments
from slm_train.errors import UserError


@contextmanager
def out_of_memory_explained(arguments: Arguments, block_size: int) -> Iterator[None]:
    """Turn torch's out-of-memory errors, on a GPU or a CPU, into a UserError."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as fault:
        if not is_out_of_memory(fault):
            raise
        raise UserError(_sentence(fault, arguments, block_size)) from fault


def is_out_of_memory(fault: BaseException) -> bool:
    """On a GPU, or of the CPU's allocator."""
    if isinstance(fault, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator" in str(fault) or "not enough memory" in str(fault)


def _sentence(fault: BaseException, arguments: Arguments, block_size: int) -> str:
    training = arguments.training
    what = _asked_for(str(fault))
    shrink = [
        "--per_device_train_batch_size (with --gradient_accumulation_steps to keep the step's size)",
        "--block_size",
    ]
    if not training.gradient_checkpointing:
        shrink.append("--gradient_checkpointing")
    if arguments.model.mode == "baseline":
        shrink.append("--mode lora")
    return (
        f"out of memory{what}, at batch {training.per_device_train_batch_size} x block {block_size}; "
        f"what shrinks it: {', '.join(shrink)}; --dry_run estimates the peak"
    )


def _asked_for(said: str) -> str:
    """torch names bytes on a CPU ("tried to allocate 824180736 bytes") and MiB or GiB on a GPU."""
    asked = re.search(r"tried to allocate ([\d.]+) (\w+)", said, re.IGNORECASE)
    if asked is None:
        return ""
    size = f"{float(asked[1]) / 1e6:,.0f} MB" if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"
    return f" when {size} more were asked for"
