"""Cached rotations and rotated weights of a layer, valid until anything behind them changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slm_adapters.base.layer_weights import write_weight
from slm_adapters.butterfly.rotate import rotation_matrices
from slm_adapters.butterfly.structure import Rotation


@dataclass(frozen=True)
class TensorSnapshot:
    """A tensor as it was, to tell later whether it has changed.

    With ``version`` None ``tensor`` is a copy of its values. Otherwise it shares the memory, and ``version`` counts the
    writes to it: a write through ``.data`` is not noticed.
    """

    tensor: Tensor
    version: int | None

    @classmethod
    def of_values(cls, tensor: Tensor) -> TensorSnapshot:
        """Compare by value on a CPU; by memory on a GPU, where comparing values would wait for it."""
        return cls(tensor.detach().clone(), None) if tensor.device.type == "cpu" else cls.of_memory(tensor)

    @classmethod
    def of_memory(cls, tensor: Tensor) -> TensorSnapshot:
        """Compare by memory on any device; nothing is copied."""
        return cls(tensor.detach(), _version(tensor))

    def matches(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is unchanged."""
        known = self.tensor
        if tensor.device != known.device or tensor.dtype != known.dtype:
            return False
        if self.version is None:
            return torch.equal(tensor, known)
        return tensor.data_ptr() == known.data_ptr() and _version(tensor) == self.version


@dataclass(frozen=True)
class CachedRotation:
    """Composed matrices of a rotation, and the angles, strength and dtype that they were composed for."""

    matrices: tuple[Tensor, ...]
    dtype: torch.dtype
    strength: float
    angles: TensorSnapshot

    @classmethod
    @torch.no_grad()
    def compose(cls, x: Tensor, angles: Tensor, strength: float, rotation: Rotation) -> CachedRotation:
        """Compose the matrices for inputs of the dtype of ``x``."""
        matrices = rotation_matrices(angles if strength == 1 else angles * strength, rotation, x.dtype)
        return cls(matrices, x.dtype, strength, TensorSnapshot.of_values(angles))

    def is_valid(self, x: Tensor, angles: Tensor, strength: float) -> bool:
        """Whether the matrices are those for these inputs, angles and strength."""
        return x.dtype == self.dtype and strength == self.strength and self.angles.matches(angles)


@dataclass(frozen=True)
class CachedMergedLayer:
    """A copy of the base layer with the weight that merging ``adapter`` would give."""

    layer: nn.Module
    active: str | list[str]  # active adapters at the time; ``adapter`` is the only one that has an effect
    adapter: str
    strength: float
    base: nn.Module
    sources: tuple[tuple[Mapping[str, Any], str, TensorSnapshot], ...]  # where each tensor behind the weight is held

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        active: str | list[str],
        adapter: str,
        strength: float,
        base: nn.Module,
        merged: tuple[Tensor, Tensor | None],
        parameters: Sequence[tuple[Mapping[str, Any], str]],
    ) -> CachedMergedLayer:
        """Copy ``base`` with the weight ``[out, in]`` and bias ``[out]`` of ``merged``, rounded to its dtype.

        ``parameters``: the dictionary and key of each angle and magnitude tensor behind them.
        """
        layer = copy.deepcopy(base).requires_grad_(False)
        write_weight(layer, *merged)
        base_parameters: Mapping[str, Any] = base._parameters
        sources = [
            (base_parameters, name, TensorSnapshot.of_memory(tensor))
            for name, tensor in base_parameters.items()
            if tensor is not None
        ]
        sources += [(tensors, name, TensorSnapshot.of_values(tensors[name])) for tensors, name in parameters]
        return cls(layer, copy.copy(active), adapter, strength, base, tuple(sources))

    def is_valid(self, active: str | list[str], strengths: Mapping[str, float], modules: Mapping[str, Any]) -> bool:
        """Whether nothing has changed since; ``modules`` are those of the adapted layer."""
        if active != self.active or strengths[self.adapter] != self.strength or modules["base_layer"] is not self.base:
            return False
        return all(snapshot.matches(tensors[name]) for tensors, name, snapshot in self.sources)


class InferenceCache:
    """Composed rotations by side and adapter, and at most one merged layer."""

    def __init__(self) -> None:
        self.rotations: dict[tuple[str, str], CachedRotation] = {}
        self.merged_layer: CachedMergedLayer | None = None

    def clear(self) -> None:
        """Drop everything, and free its memory."""
        self.rotations.clear()
        self.merged_layer = None

    def matrices(
        self, key: tuple[str, str], x: Tensor, angles: Tensor, strength: float, rotation: Rotation
    ) -> tuple[Tensor, ...]:
        """Return the matrices for ``key``, a side and an adapter, composed again if they are out of date."""
        cached = self.rotations.get(key)
        if cached is None or not cached.is_valid(x, angles, strength):
            cached = CachedRotation.compose(x, angles, strength, rotation)
            self.rotations[key] = cached
        return cached.matrices


def _version(tensor: Tensor) -> int:
    """Return torch's count of writes to ``tensor``; -1 if it was made in inference mode, which does not count them."""
    return -1 if tensor.is_inference() else tensor._version
