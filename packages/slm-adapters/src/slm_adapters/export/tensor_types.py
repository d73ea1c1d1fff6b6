"""Types of tensors in GGUF: which tensor of a file has which, and conversion to it."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
from torch import Tensor

from slm_adapters.errors import AdapterError
from slm_adapters.export.tensors import EMBEDDINGS, HEAD

DTYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
BLOCK = 32  # numbers of a row that share a scale in q8_0 and q4_0
LARGEST_F16 = 65504.0


def tensor_type(name: str, shape: tuple[int, ...], dtype: str) -> str:
    """Return the type of a tensor in a file of ``dtype``, as llama.cpp's converter chooses it.

    Vectors, positions and factors are in f32. Rows that are no multiple of a block are in f16. With q4_0, embeddings
    and head are in q8_0, for they lose the most.
    """
    if len(shape) < 2 or name.startswith("position_embd"):
        return "f32"
    if dtype.startswith("q") and shape[-1] % BLOCK:
        return "f16"
    return "q8_0" if dtype == "q4_0" and name in (EMBEDDINGS, HEAD) else dtype


def tensor_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Return the size of a tensor of a type in bytes."""
    block, size = gguf.GGML_QUANT_SIZES[ggml_type(kind)]
    return int(np.prod(shape)) // int(block) * int(size)


def encode(name: str, values: Tensor, kind: str) -> Any:
    """Return ``values`` as numpy array of a type. Raises AdapterError for values that f16 cannot hold."""
    array = values.contiguous().numpy()
    if kind == "f16" and (largest := float(np.abs(array).max(initial=0))) > LARGEST_F16:
        raise AdapterError(f"{name} has the value {largest:.3g}, which is too large for f16; give --dtype bf16 or f32")
    return array if kind == "f32" else gguf.quants.quantize(array, ggml_type(kind))


def ggml_type(kind: str) -> Any:
    """Return gguf's enumerator of a type."""
    return gguf.GGMLQuantizationType[kind.upper()]
