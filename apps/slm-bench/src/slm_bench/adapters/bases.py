"""The base that all methods lie on, held once in memory, and copies of it that share its weights."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from slm_adapters import four_bit_config
from slm_kv import load

DISTILGPT2 = "distilgpt2's shape, random weights"


def base_of(model_path: str | None, device: str) -> Any:
    """The model by that name, or one of distilgpt2's shape, in float32, with nn.Linear for Conv1D.

    PEFT's orthogonal methods refuse Conv1D. Raises KVError for a name that nothing answers to.
    """
    return with_linear(_as_it_is(model_path, device)).requires_grad_(False)


def four_bits(model_path: str | None, device: str) -> Any:
    """The same, with its linear layers in 4 bits. Raises AdapterError where there is nothing to hold them."""
    with tempfile.TemporaryDirectory() as folder:
        _as_it_is(model_path, device).save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=four_bit_config(torch.float32), device_map={"": device}
        )


def _as_it_is(model_path: str | None, device: str) -> Any:
    return load(model_path, dtype=torch.float32, device=device).model if model_path else plain_gpt2().to(device)


def plain_gpt2(layers: int = 6) -> Any:
    """distilgpt2's shape; random weights, no dropout."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=layers, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))


def with_linear(model: Any) -> Any:
    """``model`` itself, with nn.Linear in place of Conv1D: the same function."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                setattr(module, name, _as_linear(child))
    return model


def _as_linear(layer: Conv1D) -> nn.Linear:
    inputs, outputs = layer.weight.shape
    made = nn.Linear(inputs, outputs, device=layer.weight.device)
    with torch.no_grad():
        made.weight.copy_(layer.weight.T)
        made.bias.copy_(layer.bias)
    return made


def sharing(base: Any) -> Any:
    """A copy of ``base`` whose weights are those of ``base``: an adapter leaves them as they are."""
    return copy.deepcopy(base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())})


def digest(model: nn.Module) -> str:
    """Of every bit of the weights."""
    found = hashlib.blake2b(digest_size=16)
    for parameter in model.parameters():
        found.update(parameter.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return found.hexdigest()
