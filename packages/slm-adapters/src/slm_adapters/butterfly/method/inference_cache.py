"""What is kept for inference: made once, dropped when anything that it was made from changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slm_adapters.base.layer_weights import write_weight
from slm_adapters.butterfly.rotate import matrices
from slm_adapters.butterfly.structure import Rotation


@dataclass(frozen=True)
class Seen:
    """A tensor as it was. ``version`` None: its values are held. Otherwise its memory is, and how often that was
    written to: a write through ``.data`` goes unnoticed."""

    tensor: Tensor
    version: int | None

    @classmethod
    def values(cls, tensor: Tensor) -> Seen:
        """By value on a CPU; on a GPU, where comparing would wait for it, by memory."""
        return cls(tensor.detach().clone(), None) if tensor.device.type == "cpu" else cls.memory(tensor)

    @classmethod
    def memory(cls, tensor: Tensor) -> Seen:
        """By memory on any device; nothing is copied."""
        return cls(tensor.detach(), _version(tensor))

    def still(self, tensor: Tensor) -> bool:
        held = self.tensor
        if tensor.device != held.device or tensor.dtype != held.dtype:
            return False
        if self.version is None:
            return torch.equal(tensor, held)
        return tensor.data_ptr() == held.data_ptr() and _version(tensor) == self.version


@dataclass(frozen=True)
class Ready:
    """``matrices`` of a rotation, with what they were made for."""

    matrices: tuple[Tensor, ...]
    dtype: torch.dtype
    strength: float
    angles: Seen

    @classmethod
    @torch.no_grad()
    def made(cls, x: Tensor, angles: Tensor, strength: float, rotation: Rotation) -> Ready:
        """For inputs like ``x``."""
        made = matrices(angles if strength == 1 else angles * strength, rotation, x.dtype)
        return cls(made, x.dtype, strength, Seen.values(angles))

    def serves(self, x: Tensor, angles: Tensor, strength: float) -> bool:
        return x.dtype == self.dtype and strength == self.strength and self.angles.still(angles)


@dataclass(frozen=True)
class RotatedLayer:
    """A base layer beside the first, with its rotated weight: as if ``adapter`` had been merged."""

    layer: nn.Module
    active: str | list[str]
    adapter: str
    strength: float
    base: nn.Module
    seen: tuple[tuple[Mapping[str, Any], str, Seen], ...]  # each tensor behind the weight, and where it is held

    @classmethod
    @torch.no_grad()
    def made(
        cls,
        active: str | list[str],
        adapter: str,
        strength: float,
        base: nn.Module,
        merged: tuple[Tensor, Tensor | None],
        learned: Sequence[tuple[Mapping[str, Any], str]],
    ) -> RotatedLayer:
        """``base`` with ``merged``, a weight ``[out, in]`` and a bias ``[out]``, rounded to its dtype; ``learned``:
        where the angles and magnitudes behind them are held. ``adapter`` is the one of the ``active`` that acts."""
        layer = copy.deepcopy(base).requires_grad_(False)
        write_weight(layer, *merged)
        held: Mapping[str, Any] = base._parameters
        seen = [(held, name, Seen.memory(tensor)) for name, tensor in held.items() if tensor is not None]
        seen += [(held, name, Seen.values(held[name])) for held, name in learned]
        return cls(layer, copy.copy(active), adapter, strength, base, tuple(seen))

    def serves(self, active: str | list[str], strengths: Mapping[str, float], modules: Mapping[str, Any]) -> bool:
        """Whether nothing has changed since. ``modules``: those of the adapted layer."""
        if active != self.active or strengths[self.adapter] != self.strength or modules["base_layer"] is not self.base:
            return False
        return all(seen.still(held[name]) for held, name, seen in self.seen)


def _version(tensor: Tensor) -> int:
    """How often ``tensor`` was written to; -1 always for one made in inference mode, which does not count it."""
    return -1 if tensor.is_inference() else tensor._version
