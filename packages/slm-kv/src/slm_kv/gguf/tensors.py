"""The tensors of a GGUF file, by the names and in the layout of transformers' parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from slm_kv.errors import KVError
from slm_kv.gguf.blocks import TYPES, from_gguf_blocks
from slm_kv.linear.block_formats import QuantisedWeight

PERMUTED = ("llama", "mistral")  # the two halves of each rotary head are interleaved in the rows of q and k
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


class GGUFTensors:
    """The tensors of ``reader``, a GGUFReader, for a model of ``config``.

    Attributes:
        unread: The names of tensors that were not read yet.
    """

    def __init__(self, reader: Any, config: Any) -> None:
        import gguf

        self._dequantize: Any = gguf.dequantize
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        architecture = str(reader.fields["general.architecture"].contents())
        scaling = reader.fields.get(f"{architecture}.rope.scaling.type")
        if scaling is not None and scaling.contents() != "none":  # transformers 5.19 ignores it
            raise KVError(
                f"the GGUF file scales rotary positions ({scaling.contents()}), which is not read from GGUF; load the "
                "model from a folder instead"
            )
        number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        self._names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
        self._heads = {}
        if config.model_type in PERMUTED:
            self._heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        self.unread = set(self._tensors)

    def has(self, module: str, kind: str = "weight") -> bool:
        """Whether the file has the parameter of the module called ``module``."""
        return self._name(module, kind) in self._tensors

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the matrices if they are in 16 bits, else float32."""
        types = [tensor.tensor_type.name for tensor in self._tensors.values() if len(tensor.shape) > 1]
        return next((dtype for name, dtype in DTYPES.items() if name in types), torch.float32)

    def blocks(self, module: str) -> QuantisedWeight | None:
        """The weight of a module as blocks; None if it is in a type that has none here."""
        tensor, data = self._read(module, "weight")
        type_name = tensor.tensor_type.name
        return from_gguf_blocks(data, type_name) if type_name in TYPES else None

    def dense(self, module: str, kind: str, dtype: torch.dtype) -> Tensor:
        """A parameter; a weight as [O, I]."""
        tensor, data = self._read(module, kind)
        try:
            values = self._dequantize(data, tensor.tensor_type)
        except NotImplementedError as error:
            raise KVError(
                f"tensor {tensor.name} of the GGUF file is in {tensor.tensor_type.name}, which is not supported; "
                f"quantise the model to Q8_0, Q4_0, Q4_1 or Q4_K"
            ) from error
        return torch.tensor(values, dtype=dtype)

    def _read(self, module: str, kind: str) -> tuple[Any, np.ndarray]:
        name = self._name(module, kind)
        if name not in self._tensors:
            raise KVError(f"the GGUF file has no tensor for {module}.{kind}; convert the model again")
        tensor = self._tensors[name]
        self.unread.discard(name)
        heads = self._heads.get(name.split(".")[-2])
        return tensor, _join_halves(tensor.data, heads) if heads else tensor.data

    def _name(self, module: str, kind: str) -> str:
        return f"{self._names.get_name(module) or module}.{kind}"


def _join_halves(data: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of each head's two halves one after the other."""
    return data.reshape(heads, -1, 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
