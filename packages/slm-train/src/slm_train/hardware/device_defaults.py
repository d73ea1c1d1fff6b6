"""Defaults that depend on the device: CPU or GPU, and bfloat16."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers import TrainingArguments


@dataclass(frozen=True)
class DeviceDefaults:
    """What a run uses unless the user chooses otherwise."""

    use_cpu: bool
    bf16: bool
    name: str


def device_defaults(cpu_wanted: bool = False) -> DeviceDefaults:
    """Return the accelerator if there is one, and bfloat16 autocast if the device has instructions for it."""
    if torch.cuda.is_available() and not cpu_wanted:
        return DeviceDefaults(False, torch.cuda.is_bf16_supported(False), torch.cuda.get_device_name())
    if torch.backends.mps.is_available() and not cpu_wanted:
        return DeviceDefaults(False, False, "Apple GPU")
    return DeviceDefaults(True, multiplies_bfloat16(), "CPU")


def precision_name(training: TrainingArguments) -> str:
    """Return what a run computes in. Weights and optimizer state are float32, or 4-bit where that is chosen."""
    if training.bf16 or training.fp16:
        return f"{'bfloat16' if training.bf16 else 'float16'} autocast"
    # transformers refuses --tf32 true on a device without it.
    return "float32, products of matrices in TF32" if training.tf32 else "float32"


def ignored_precision_flags(explicit_flags: Collection[str], *, fp16_on_cpu: bool) -> list[str]:
    """Return lines about flags that are not used as a user may expect."""
    notes = []
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
