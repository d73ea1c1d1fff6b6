"""Building modules on the meta device, where tensors have shapes but no values, without computing values for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

META = torch.device("meta")
# By these, frequencies of rotary positions are computed.
ARITHMETIC = ("div", "true_divide", "__truediv__", "__rtruediv__", "__rdiv__", "reciprocal", "pow", "__rpow__")
LARGEST = 1 << 16  # numbers in a tensor for which they are computed


class SkipMetaValues(TorchFunctionMode):
    """A context in which torch imports no compiler for initial weights and rotary frequencies on the meta device.

    There it computes them in Python (2 ms for the weight of a layer). Frequencies are computed on the CPU instead, for
    their shape and dtype.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.arange and kwargs.get("device") is not None and torch.device(kwargs["device"]) == META:
            return _on_meta(function(*args, **kwargs | {"device": "cpu"}))
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            return function(*args, **kwargs)
        if getattr(function, "__module__", "") == init.__name__:
            return tensors[0]
        if function is torch.empty_like and tensors[0].is_contiguous() and kwargs.keys() <= {"device", "dtype"}:
            dtype, device = kwargs.get("dtype", tensors[0].dtype), kwargs.get("device", META)
            return torch.empty(tensors[0].shape, dtype=dtype, device=device)
        name = getattr(function, "__name__", "")
        if name in ARITHMETIC and "out" not in kwargs and all(tensor.numel() <= LARGEST for tensor in tensors):
            return _on_meta(function(*map(_on_cpu, args), **{key: _on_cpu(value) for key, value in kwargs.items()}))
        return function(*args, **kwargs)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)


def _on_cpu(value: Any) -> Any:
    is_meta = isinstance(value, torch.Tensor) and value.is_meta
    return torch.ones(value.shape, dtype=value.dtype, device="cpu") if is_meta else value
