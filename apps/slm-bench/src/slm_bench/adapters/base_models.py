"""The base model, and copies of it that share its weights, so that these are in memory once."""

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


def load_base(model_path: str | None, device: str) -> Any:
    """Return the frozen model ``model_path`` in float32; for None, one of distilgpt2's shape with random weights.

    Conv1D layers are replaced by equivalent nn.Linear layers, because PEFT's OFT, HRA and BOFT refuse Conv1D.
    """
    return with_linear(_load_plain(model_path, device)).requires_grad_(False)


def load_in_four_bits(model_path: str | None, device: str) -> Any:
    """Return the same model with linear layers in 4 bits. Raises AdapterError without bitsandbytes."""
    with tempfile.TemporaryDirectory() as folder:
        _load_plain(model_path, device).save_pretrained(folder)
        options: Any = {"quantization_config": four_bit_config(torch.float32), "device_map": {"": device}}
        return AutoModelForCausalLM.from_pretrained(folder, **options)


def _load_plain(model_path: str | None, device: str) -> Any:
    if model_path:
        return load(model_path, dtype=torch.float32, device=device).model
    torch.manual_seed(0)
    config = GPT2Config(n_layer=6, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)  # distilgpt2's shape, without dropout
    model: Any = GPT2LMHeadModel(config)
    return model.to(device)


def with_linear(model: Any) -> Any:
    """Replace each Conv1D of ``model`` by nn.Linear in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                setattr(module, name, _as_linear(child))
    return model


def _as_linear(layer: Conv1D) -> nn.Linear:
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs, device=layer.weight.device)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.T)
        linear.bias.copy_(layer.bias)
    return linear


def share_weights(base: Any) -> Any:
    """Return a copy of ``base`` that shares its tensors. Adapters never write to these."""
    return copy.deepcopy(base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())})


def digest(model: nn.Module) -> str:
    """Return a hash over every bit of the weights."""
    checksum = hashlib.blake2b(digest_size=16)
    for parameter in model.parameters():
        checksum.update(parameter.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return checksum.hexdigest()
