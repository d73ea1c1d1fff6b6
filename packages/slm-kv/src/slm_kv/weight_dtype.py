"""The dtype in which a checkpoint's weights are used, if the user does not choose one."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from slm_kv.errors import KVError

NAMES = ("auto", "float32", "bfloat16", "float16")


def automatic_dtype(checkpoint_dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype in which weights that are stored in ``checkpoint_dtype`` are used on ``device``.

    It never rounds weights: bfloat16 stays bfloat16 where that is not slower than float32, and float16 stays float16 on
    a GPU. On a CPU float16 is widened to float32, because CPUs have no fast float16 products and bfloat16 would round
    it. Everything else, weights in 8 bits among it, is float32.
    """
    if device.type == "cpu":
        keep = checkpoint_dtype is torch.bfloat16 and bfloat16_is_fast()
    elif checkpoint_dtype is torch.bfloat16 and device.type == "cuda":
        keep = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        keep = checkpoint_dtype in (torch.bfloat16, torch.float16)
    return checkpoint_dtype if keep else torch.float32


def bfloat16_is_fast() -> bool:
    """Return whether bfloat16 weights are not slower than float32 on this CPU.

    CPUs with AVX512-BF16 or AMX multiply bfloat16. Others with AVX2 widen it: with numba, a product of few rows is
    limited by reading the weight, of which bfloat16 has half, and for more rows tiles are widened to float32.
    """
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return True
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and find_spec("numba") is not None


class DtypeChoice:
    """Chooses the dtype for a checkpoint, and remembers why; a loader calls it with the checkpoint's dtype and device.

    Args:
        name: ``auto`` for ``automatic_dtype``, or the name of a dtype.

    Attributes:
        name: The name of the chosen dtype; ``auto`` before a loader called it.
        reason: It and why it was chosen, such as ``bfloat16, as the checkpoint``.

    Raises:
        KVError: the name is unknown.
    """

    def __init__(self, name: str = "auto") -> None:
        if name not in NAMES:
            raise KVError(f"dtype {name!r} is not one of {', '.join(NAMES)}")
        self.name = self.requested = name
        self.reason = "" if name == "auto" else f"{name}, as requested"

    def __call__(self, checkpoint_dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """Return the dtype of the weights."""
        if self.requested != "auto":
            requested: torch.dtype = getattr(torch, self.requested)
            return requested
        dtype = automatic_dtype(checkpoint_dtype, device)
        self.name = str(dtype).removeprefix("torch.")
        self.reason = describe_dtype(checkpoint_dtype, dtype, device)
        return dtype


def describe_dtype(checkpoint_dtype: torch.dtype, dtype: torch.dtype, device: torch.device) -> str:
    """Return an automatically chosen dtype and why it was chosen, such as ``bfloat16, as the checkpoint``."""
    name, stored = (str(one).removeprefix("torch.") for one in (dtype, checkpoint_dtype))
    if dtype is checkpoint_dtype:
        return f"{name}, as the checkpoint"
    if checkpoint_dtype in (torch.bfloat16, torch.float16):
        return f"{name}, because the checkpoint's {stored} is slower on this {device.type}"
    return f"{name}; the checkpoint has {stored}"
