"""Counting the bytes of live tensors."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of living tensors that were created while it is active.

    ``now`` is the current sum, ``highest`` its maximum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.highest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def ignore(self, model: torch.nn.Module) -> None:
        """Leave out the parameters and buffers of ``model``."""
        for tensor in (*model.parameters(), *model.buffers()):
            self.sizes[tensor.untyped_storage()._cdata] = 0

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # the address of the storage, which views share
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.now -= self.sizes.pop(key)
