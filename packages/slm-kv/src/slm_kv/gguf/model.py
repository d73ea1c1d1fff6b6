"""Building a model over the blocks of a GGUF file. No weight is widened, except in types without a block format."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from slm_kv.errors import KVError
from slm_kv.gguf.file import reading_once
from slm_kv.gguf.tensors import GGUFTensors
from slm_kv.gguf.tokenizer import load_tokenizer
from slm_kv.linear.layer_selection import weight_OI
from slm_kv.linear.packed_embedding import PackedEmbedding
from slm_kv.linear.packing import replace_module
from slm_kv.linear.quantised_linear import QuantisedLinear, product_dtype
from slm_kv.linear.widening_tile import WideningTile

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")  # model types whose layout in GGUF is known here


def load_blocks(path: Path, dtype: torch.dtype | Callable[..., torch.dtype]) -> tuple[Any, Any] | None:
    """Load a model on the CPU, and its tokenizer; None if its architecture is not in ``ARCHITECTURES``.

    Args:
        path: The file.
        dtype: That of embeddings, norms, activations and keys and values.

    Raises:
        KVError: the file lacks tensors, or has some that the model does not use.
    """
    with _naming(path), reading_once() as read:
        location, options = str(path.parent), {"gguf_file": path.name, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(location, **options)
        if config.model_type not in ARCHITECTURES:
            return None
        reader = read(os.path.join(location, path.name))
        if config.model_type == "gpt2":  # transformers 5.19 does not read it, and takes 1024
            config.n_positions = int(reader.fields["gpt2.context_length"].contents())
        tensors = GGUFTensors(reader, config)
        if not isinstance(dtype, torch.dtype):
            dtype = dtype(tensors.dtype, torch.device("cpu"))
        model = _empty_model(config, dtype)
        _fill(model, tensors, dtype)
        return model, load_tokenizer(path)


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Turn errors of the readers into one sentence that names the file."""
    try:
        yield
    except KVError:
        raise
    except Exception as error:  # of a damaged file, anything
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise KVError(
            f"{path} cannot be read as a model ({line}); copy it again, or load the model's folder"
        ) from error


def _empty_model(config: Any, dtype: torch.dtype) -> Any:
    """The model without memory for its parameters."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    for module in model.modules():
        buffers = {name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        for name, buffer in buffers.items():
            setattr(module, name, torch.empty_like(buffer, device="cpu"))
        if buffers:
            model._init_weights(module)  # computes them, as in ``from_pretrained``
    return model.eval().requires_grad_(False)


def _fill(model: Any, tensors: GGUFTensors, dtype: torch.dtype) -> None:
    """Give all modules their parameters."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head.weight is embedding.weight
    tiles: dict[tuple[int, int], WideningTile] = {}
    for name, module in list(model.named_modules()):
        if module is head and is_tied:
            continue
        has_blocks = module is embedding or type(module) in (nn.Linear, Conv1D)
        layer = _quantised(name, module, tensors, dtype, tiles) if has_blocks else None
        if layer is None:
            _fill_dense(name, module, tensors, dtype)
        else:
            replace_module(model, name, PackedEmbedding(layer) if module is embedding else layer)
        if module is embedding and is_tied and layer is None:
            head.weight = module.weight
        elif module is embedding and is_tied:
            model.set_output_embeddings(layer)
    if tensors.unread:
        raise KVError(
            f"the GGUF file has the tensor {min(tensors.unread)}, which {type(model).__name__} does not use; "
            "load the model from a folder instead"
        )


def _quantised(
    name: str, module: Any, tensors: GGUFTensors, dtype: torch.dtype, tiles: dict[tuple[int, int], WideningTile]
) -> QuantisedLinear | None:
    """The layer over the file's blocks; None if the file has the weight in a type without blocks here."""
    weight = tensors.blocks(name)
    if weight is None:
        return None
    _check_shape(name, (weight.outputs, weight.inputs), weight_OI(module))
    bias = tensors.dense(name, "bias", dtype) if getattr(module, "bias", None) is not None else None
    shape = weight.outputs, weight.inputs
    if shape not in tiles:
        tiles[shape] = WideningTile(weight.inputs, product_dtype(), weight.outputs)
    return QuantisedLinear(weight, bias, dtype, tiles[shape])


def _fill_dense(name: str, module: Any, tensors: GGUFTensors, dtype: torch.dtype) -> None:
    for kind, parameter in list(module.named_parameters(recurse=False)):
        value = tensors.dense(name, kind, dtype)
        value = value.t().contiguous() if isinstance(module, Conv1D) and kind == "weight" else value
        _check_shape(name, value.shape, parameter)
        setattr(module, kind, nn.Parameter(value, requires_grad=False))


def _check_shape(name: str, shape: tuple[int, ...], parameter: torch.Tensor) -> None:
    if shape != parameter.shape:
        expected = " x ".join(map(str, parameter.shape))
        raise KVError(
            f"the GGUF file has {name} as {' x '.join(map(str, shape))} and its configuration requires {expected}; "
            "convert the model again"
        )
