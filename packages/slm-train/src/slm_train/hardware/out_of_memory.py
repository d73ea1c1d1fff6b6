"""Out-of-memory errors: recognising them, and the message that names the flags that reduce memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slm_train.arguments import Arguments
from slm_train.errors import TrainError


@contextmanager
def explain_out_of_memory(arguments: Arguments, block_size: int) -> Iterator[None]:
    """Turn torch's out-of-memory errors, on a GPU or a CPU, into a TrainError."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainError(_message(error, arguments, block_size)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the GPU or the CPU is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a CPU torch raises a plain RuntimeError; these texts are those of its allocators on Linux and Windows.
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)


def _message(error: BaseException, arguments: Arguments, block_size: int) -> str:
    training = arguments.training
    flags = [
        "--per_device_train_batch_size (with --gradient_accumulation_steps to keep the size of a step)",
        "--block_size",
    ]
    if not training.gradient_checkpointing:
        flags.append("--gradient_checkpointing")
    if arguments.model.mode == "baseline":
        flags.append("--mode lora")
    return (
        f"out of memory{_requested_size(str(error))}, at batch {training.per_device_train_batch_size} x block "
        f"{block_size}; less memory is used with {', '.join(flags)}; --dry_run estimates the peak"
    )


def _requested_size(message: str) -> str:
    """Return the size that torch could not allocate.

    torch names bytes on a CPU ("tried to allocate 824180736 bytes") and MiB or GiB on a GPU.
    """
    match = re.search(r"tried to allocate ([\d.]+) (\w+)", message, re.IGNORECASE)
    if match is None:
        return ""
    size = f"{float(match[1]) / 1e6:,.0f} MB" if match[2] == "bytes" else f"{match[1]} {match[2]}"
    return f" when allocating {size} more"
