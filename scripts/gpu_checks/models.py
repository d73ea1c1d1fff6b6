"""Models with random weights, made from configurations: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from slm_data import sample_base

# The ids of the built-in tokenizer, which is saved beside each model, fit in all vocabularies.
TINY: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    "tie_word_embeddings": True,
}
WITHOUT_DROPOUT: dict[str, Any] = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}

SHAPES: dict[str, Callable[[], PreTrainedModel]] = {
    "tiny": lambda: LlamaForCausalLM(
        LlamaConfig(**TINY, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=256)
    ),
    "tiny gpt2": lambda: GPT2LMHeadModel(GPT2Config(**TINY, n_positions=256, **WITHOUT_DROPOUT)),
    "distilgpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=6, **WITHOUT_DROPOUT)),
    "smollm2-135m": lambda: LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)),
}


def new_model(shape: str, device: torch.device, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a model of ``shape`` with fixed random weights, in eval mode."""
    torch.manual_seed(0)
    model: Any = SHAPES[shape]()
    return model.eval().to(device=device, dtype=dtype)


def built_in_tokenizer() -> PreTrainedTokenizerBase:
    """Return the tokenizer of the built-in base model, with 2,048 ids."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(sample_base()))
    return tokenizer


def save_model(shape: str, folder: Path) -> Path:
    """Write a model of ``shape`` with the built-in tokenizer, as a base for slm-train, and return the folder."""
    new_model(shape, torch.device("cpu")).save_pretrained(folder)
    built_in_tokenizer().save_pretrained(folder)
    return folder
