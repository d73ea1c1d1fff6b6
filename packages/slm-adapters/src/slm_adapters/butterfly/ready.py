"""Rotations kept for inference: composed once, dropped when anything that they were composed from changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slm_adapters.butterfly.ladder import Rotation
from slm_adapters.butterfly.rotate import matrices


@dataclass(frozen=True)
class Ready:
    """``matrices`` of a rotation, with what they were made for."""

    matrices: tuple[Tensor, ...]
    dtype: torch.dtype
    strength: float
    angles: Tensor  # a copy on a CPU, where comparing is cheap; elsewhere the angles themselves
    version: int

    @classmethod
    @torch.no_grad()
    def made(cls, x: Tensor, angles: Tensor, strength: float, rotation: Rotation) -> Ready:
        """For inputs like ``x``."""
        made = matrices(angles if strength == 1 else angles * strength, rotation, x.dtype)
        held = angles.detach().clone() if angles.device.type == "cpu" else angles.detach()
        return cls(made, x.dtype, strength, held, angles._version)

    def serves(self, x: Tensor, angles: Tensor, strength: float) -> bool:
        """Whether the matrices are still those of ``angles``. On a CPU the values are compared; on a GPU, where that
        would wait for it, the memory and its version: after a write through ``.data`` call ``model.eval()`` there."""
        if x.dtype != self.dtype or strength != self.strength or angles.device != self.angles.device:
            return False
        if angles.device.type == "cpu":
            return torch.equal(angles, self.angles)
        return angles._version == self.version and angles.data_ptr() == self.angles.data_ptr()
