"""Counting the operations of training steps, and finding what would make the host wait for a GPU, on a CPU."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# They copy a number to the host, or have a result whose size the host must know.
_WAITING_OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# Methods by which Python reads a tensor; on a CPU not all of them are operations.
_READING_METHODS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__"}


class OperationCounter(TorchDispatchMode):
    """Counts operations other than views, of which each launches a kernel on a GPU, and records those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.waiting: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (operation.is_view or operation is torch.ops.aten._unsafe_view.default)
        name = operation.overloadpacket.__name__
        indices = args[1] if name in _INDEXING else ()
        by_condition = any(index is not None and index.dtype is torch.bool for index in indices)
        if name.startswith(_WAITING_OPERATIONS) or by_condition:
            self.waiting.append(f"{name} in {_caller()}")
        return operation(*args, **(kwargs or {}))


class Readings(TorchFunctionMode):
    """Records where Python reads a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _READING_METHODS:
            self.places.append(f"{name} in {_caller()}")
        return function(*args, **(kwargs or {}))


def _caller() -> str:
    """Return the module and the function that called torch."""
    frame: Any = sys._getframe(2)
    while frame and (frame.f_code.co_name == "__torch_function__" or frame.f_globals["__name__"].startswith("torch.")):
        frame = frame.f_back
    return f"{frame.f_globals['__name__']}.{frame.f_code.co_name}" if frame else "torch"
