"""Recognising norms, activations and rotary embeddings by what they compute, not by the name of their class."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slm_kv.decode_step.blocks import Norm, Rotary

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
# GELU and its approximation by tanh differ by 4.7e-4; SiLU from others by 0.2.
ACTIVATION_TOLERANCE = 5e-5
NORM_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
EPSILONS = ("variance_epsilon", "eps", "epsilon")
STATIC_ROTARY_TYPES = ("default", "linear", "llama3", "yarn")  # frequencies do not depend on the text's length


def as_float32(tensor: Tensor | None) -> np.ndarray | None:
    """A float32 copy, C-contiguous."""
    return None if tensor is None else np.array(tensor.detach().float().numpy(), order="C")


def activation_kind(module: Any) -> str | None:
    """The name of the activation; None if it is none of ``ACTIVATIONS``."""
    x = torch.linspace(-6, 6, 193)
    y = module(x)
    known = (name for name, function in ACTIVATIONS.items() if _close(y, function(x), ACTIVATION_TOLERANCE))
    return next(known, None)


def recognise_norm(module: Any, width: int) -> Norm | None:
    """The norm over ``width`` numbers that ``module`` computes; None if it is none."""
    parameters = dict(module.named_parameters())
    if parameters.keys() - {"weight", "bias"} or list(module.children()) or list(module.buffers()):
        return None
    weight, bias = parameters.get("weight"), parameters.get("bias")
    eps = next((getattr(module, name) for name in EPSILONS if hasattr(module, name)), None)
    if eps is None or any(p is not None and p.shape != (width,) for p in (weight, bias)):
        return None
    x = _example(width, torch.float32 if weight is None else weight.dtype)
    y = module(x)
    weights = [None] if weight is None else [weight.float(), 1 + weight.float()]
    for center in (False, True):
        for candidate in weights:
            norm = Norm(as_float32(candidate), as_float32(bias), float(eps), center)
            if _close(y, normalise(x.float(), norm), NORM_TOLERANCE.get(x.dtype, 0.0)):
                return norm
    return None


def normalise(x: Tensor, norm: Norm) -> Tensor:
    """The reference of ``Norm``."""
    x = x - x.mean(-1, keepdim=True) if norm.center else x
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
    y = y if norm.weight is None else y * torch.from_numpy(norm.weight)
    return y if norm.bias is None else y + torch.from_numpy(norm.bias)


def recognise_rotary(module: Any, attention: nn.Module, layer_type: str | None, dim: int) -> Rotary | None:
    """How ``attention`` rotates heads of ``dim`` numbers by the tables of ``module``; None if it is unclear."""
    rope_type = getattr(module, "rope_type", "default")
    by_layer = isinstance(rope_type, dict)
    if (rope_type.get(layer_type) if isinstance(rope_type, dict) else rope_type) not in STATIC_ROTARY_TYPES:
        return None
    rotate = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    found = Rotary(module, layer_type if by_layer else None, dim, False)
    cos, sin = _module_tables(found, torch.tensor([5]))
    if rotate is None or cos.shape[-1] > dim or cos.shape != sin.shape or cos.shape[-1] % 2:
        return None
    x = _example(cos.shape[-1], torch.float32).view(4, 1, -1)[:1, None]
    y = rotate(x, x, cos[None], sin[None])[0].flatten()
    for interleaved in (False, True):
        rotary = Rotary(module, found.layer_type, cos.shape[-1], interleaved)
        cosines, sines = rotary_tables(rotary, 6)
        if _close(y, rotated(x.flatten(), cosines[5], sines[5], interleaved), 1e-5):
            return rotary
    return None


def rotated(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """The reference of a rotation by angles whose cosines and sines [dim / 2] are given."""
    first, second = (x[0::2], x[1::2]) if interleaved else x.chunk(2)
    y = torch.empty_like(x)
    halves = (y[0::2], y[1::2]) if interleaved else y.chunk(2)
    halves[0].copy_(first * cos - second * sin)
    halves[1].copy_(second * cos + first * sin)
    return y


def rotary_tables(rotary: Rotary, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions 0 to ``positions`` - 1, float32 [positions, dim / 2]."""
    cos, sin = _module_tables(rotary, torch.arange(positions))
    half = rotary.dim // 2
    repeated = torch.equal(cos[:, :half], cos[:, half:])  # else each number is followed by its copy
    return (cos[:, :half], sin[:, :half]) if repeated else (cos[:, 0::2], sin[:, 0::2])


def _module_tables(rotary: Rotary, positions: Tensor) -> tuple[Tensor, Tensor]:
    options = {} if rotary.layer_type is None else {"layer_type": rotary.layer_type}
    cos, sin = rotary.module(torch.zeros(1), positions[None], **options)
    return cos[0], sin[0]


def _example(width: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4, width, generator=generator) + 0.5).to(dtype)


def _close(y: Tensor, expected: Tensor, tolerance: float) -> bool:
    return y.shape == expected.shape and bool(((y.float() - expected).abs() <= tolerance * (1 + expected.abs())).all())
