"""Defaults that depend on the device: CPU or GPU, and the precision of autocast."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from slm_train.arguments import autocast_dtype

APPLE_GPU = "Apple GPU"
_FAST_FLOAT16 = (7, 0)  # the compute capability of the first GPUs with fast float16 products (V100; T4 is 7.5)


@dataclass(frozen=True)
class DeviceDefaults:
    """What a run uses unless the user chooses otherwise.

    Attributes:
        use_cpu: Whether there is no GPU, or the user wants none.
        bf16: Whether the device has instructions for bfloat16, so that autocast uses it.
        name: The name of the device.
        fp16: Whether autocast uses float16, with a loss scale: on GPUs that have instructions for it only.
    """

    use_cpu: bool
    bf16: bool
    name: str
    fp16: bool = False


def device_defaults(cpu_wanted: bool = False) -> DeviceDefaults:
    """Return the accelerator if there is one (CUDA or ROCm, Apple's MPS, Intel's XPU), and its precision."""
    if torch.cuda.is_available() and not cpu_wanted:
        bf16 = torch.cuda.is_bf16_supported(False)  # by default torch also counts emulation
        fp16 = not bf16 and torch.cuda.get_device_capability() >= _FAST_FLOAT16
        return DeviceDefaults(False, bf16, torch.cuda.get_device_name(), fp16)
    if torch.backends.mps.is_available() and not cpu_wanted:
        return DeviceDefaults(False, False, APPLE_GPU)
    if torch.xpu.is_available() and not cpu_wanted:
        return DeviceDefaults(False, torch.xpu.is_bf16_supported(False), torch.xpu.get_device_name())
    return DeviceDefaults(True, multiplies_bfloat16(), "CPU")


def precision_name(training: TrainingArguments) -> str:
    """Return what a run computes in. Weights and optimizer state are float32, or 4-bit where that is chosen."""
    name = str(autocast_dtype(training)).removeprefix("torch.")
    if training.bf16 or training.fp16:
        return f"{name} autocast"
    # transformers refuses --tf32 true on a device without it.
    return f"{name}, products of matrices in TF32" if training.tf32 else name


def notes_on_precision(
    explicit_flags: Collection[str], device: DeviceDefaults, *, bf16: bool, fp16_on_cpu: bool
) -> list[str]:
    """Return lines about flags that do not do what a user may expect.

    Args:
        explicit_flags: The flags that the user set.
        device: The defaults of the device.
        bf16: Whether the run uses bfloat16.
        fp16_on_cpu: Whether the user chose float16 on a CPU.
    """
    notes = []
    if bf16 and not device.bf16 and device.name != APPLE_GPU:
        usual = "float16" if device.fp16 else "float32"
        notes.append(f"--bf16 is emulated on this {device.name}, slowly: leave it out for {usual}")
    if fp16_on_cpu:  # accelerate 1.15 ignores it there
        notes.append("--fp16 is not used on a CPU: this run computes in float32 (--bf16 for bfloat16)")
    for flag in ("bf16_full_eval", "fp16_full_eval"):
        if flag in explicit_flags:
            notes.append(f"--{flag} is not used: evaluations compute as training does")
    return notes


def multiplies_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 instructions. Others emulate them, several times slower than float32."""
    # Private functions: torch 2.13 has no public ones for this.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
