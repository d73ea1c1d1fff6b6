"""Digests of weights: a cached prefix is reused only under the weights that computed it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weight_digest(tensors: Iterable[tuple[str, Tensor]], seed: bytes = b"") -> bytes:
    """Return 16 bytes of blake2b over the names, dtypes, shapes and values of ``tensors``, in their order."""
    hasher = hashlib.blake2b(seed, digest_size=16)
    for name, tensor in tensors:
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            hasher.update(_raw_bytes(tensor))
    return hasher.digest()


def _raw_bytes(tensor: Tensor) -> memoryview:
    dense = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
    return dense.cpu().contiguous().flatten().view(torch.uint8).numpy().data
