"""The tensors of a model under their names in GGUF, in its layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gguf
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.errors import AdapterError
from slm_adapters.export.architectures import Architecture
from slm_adapters.export.layouts import AS_IS, TRANSPOSED, Heads, Layout
from slm_adapters.export.rotary import factor_tensors

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file. ``source`` is the parameter's name in the model; None if it is none of its own."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Tensor]  # in GGUF's layout, computed when it is written
    source: str | None = None


def list_tensors(model: PreTrainedModel, architecture: Architecture) -> list[GgufTensor]:
    """Return the tensors of ``model`` for llama.cpp. Raises AdapterError for a weight that has no name in GGUF."""
    tensors = list(_parameters(model, architecture))
    written = {tensor.name for tensor in tensors}
    if architecture.head == "required" and HEAD not in written:
        embeddings = next(tensor for tensor in tensors if tensor.name == EMBEDDINGS)
        tensors.append(GgufTensor(HEAD, embeddings.shape, embeddings.values))
    if architecture.head == "tied" and HEAD in written:
        raise AdapterError(
            f"the output layer of this {architecture.label} model is not tied to its embeddings, which llama.cpp "
            "always uses for it; serve it with slm-serve, or merge it for another program"
        )
    factors = factor_tensors(model.config, architecture)
    return tensors + [GgufTensor(name, tuple(values.shape), constant(values)) for name, values in factors.items()]


def gguf_name(module: str, architecture: Architecture, layers: int) -> str:
    """Return the name of a layer in GGUF. Raises AdapterError if llama.cpp knows no such layer."""
    key = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.gguf)
    name = gguf.get_tensor_name_map(key, layers).get_name(module)
    if name is None:
        raise AdapterError(f"llama.cpp knows no layer {module} in {architecture.label} models; export another model")
    return str(name)


def layout_of(model: PreTrainedModel, module: str, architecture: Architecture) -> Layout:
    """Return the layout of the weight and bias of a layer."""
    if isinstance(model.get_submodule(module), Conv1D):
        return TRANSPOSED
    last = module.rpartition(".")[2]
    return architecture.layouts.get("norm" if last.endswith("norm") else last, AS_IS)


def _parameters(model: PreTrainedModel, architecture: Architecture) -> Iterator[GgufTensor]:
    heads = architecture.heads(model.config)
    for name, parameter in model.named_parameters():  # a tied head is not among them
        module, _, kind = name.rpartition(".")
        layout = layout_of(model, module, architecture)
        layer = gguf_name(module, architecture, model.config.num_hidden_layers)
        shape = tuple(reversed(parameter.shape)) if layout is TRANSPOSED else tuple(parameter.shape)
        yield GgufTensor(f"{layer}.{kind}", shape, _written(parameter, layout, heads), name)


def _written(parameter: Tensor, layout: Layout, heads: Heads) -> Callable[[], Tensor]:
    return lambda: layout.write(parameter.detach().to("cpu", torch.float32), heads)


def constant(values: Tensor) -> Callable[[], Tensor]:
    """Return a function that returns ``values``."""
    return lambda: values
