"""Writing a GGUF file, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from slm_adapters.export.tensor_types import encode, ggml_type, tensor_bytes
from slm_adapters.export.tensors import GgufTensor


@dataclass(frozen=True)
class TypedTensor:
    """A tensor and its type in a file, such as f32 or q8_0."""

    tensor: GgufTensor
    kind: str


def write_gguf(path: Path, architecture: str, add_keys: Callable[[Any], None], tensors: Sequence[TypedTensor]) -> None:
    """Write a GGUF file; ``add_keys`` adds its keys to the ``GGUFWriter``.

    Raises OSError if the file cannot be written, and AdapterError for values that a type cannot hold.
    """
    writer = gguf.GGUFWriter(path, architecture)
    try:
        add_keys(writer)
        for each in tensors:
            size = tensor_bytes(each.tensor.shape, each.kind)
            # With the dtype of numbers, the shape is not taken for one of blocks.
            writer.add_tensor_info(
                each.tensor.name, each.tensor.shape, np.dtype(np.float32), size, raw_dtype=ggml_type(each.kind)
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for each in tensors:
            writer.write_tensor_data(encode(each.tensor.name, each.tensor.values(), each.kind))
    finally:
        writer.close()


def read_gguf(path: Path) -> dict[str, Any]:
    """Return the tensors of a file as float32 arrays, by name."""
    reader = gguf.GGUFReader(path)
    return {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
