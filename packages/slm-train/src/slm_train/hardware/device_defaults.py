"""Defaults that depend on the device: CPU or GPU, and bfloat16."""

from __future__ import annotations

from dataclasses import dataclass

import torch


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


def multiplies_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 instructions. Others emulate them, several times slower than float32."""
    # Private functions: torch 2.13 has no public ones for this.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
