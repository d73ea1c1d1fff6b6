"""A digest of weights, so that keys and values are only found again under the weights that made them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest(tensors: Iterable[tuple[str, Tensor]], seed: bytes = b"") -> bytes:
    """16 bytes of blake2b over names, types, shapes and values, in the order given."""
    found = hashlib.blake2b(seed, digest_size=16)
    for name, tensor in tensors:
        found.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            found.update(_bytes(tensor))
    return found.digest()


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
    return plain.cpu().contiguous().flatten().view(torch.uint8).numpy().data
