"""Tiny models without dropout for the tests of PEFT's functions: plain modules and causal language models."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

VOCABULARY = 40


class Perceptron(nn.Module):
    """Two linear layers of widths 12, 24 and 6. It has no configuration, and its attribute is called ``layers``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 24), nn.Linear(24, 6, bias=False)])
        self.norm = nn.LayerNorm(24)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(torch.tanh(self.layers[0](x)))
        y: Tensor = self.layers[1](hidden)
        return y


class EmbeddingWithScore(nn.Module):
    """An embedding, a ``Conv1D`` of widths 16 and 12, and a score of width 1 for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.projection = Conv1D(12, 16)
        self.score = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.score(torch.tanh(self.projection(self.embedding(x))))
        return y


def sequential() -> nn.Sequential:
    """Three linear layers called 0, 2 and 3."""
    return nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 24), nn.Linear(24, 6))


def gpt2() -> PreTrainedModel:
    no_dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes: dict[str, Any] = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": VOCABULARY}
    return GPT2LMHeadModel(GPT2Config(**sizes, **no_dropout, bos_token_id=0, eos_token_id=1))


def llama() -> PreTrainedModel:
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": VOCABULARY}
    return LlamaForCausalLM(LlamaConfig(**heads, **sizes, bos_token_id=0, eos_token_id=1))


def opt() -> PreTrainedModel:
    """A model whose output layer is tied to its embedding."""
    sizes: dict[str, Any] = {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16, "vocab_size": VOCABULARY}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 32}
    return OPTForCausalLM(
        OPTConfig(**sizes, **heads, dropout=0.0, attention_dropout=0.0, pad_token_id=1, bos_token_id=0, eos_token_id=1)
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": Perceptron,
    "score": EmbeddingWithScore,
    "sequential": sequential,
    "gpt2": gpt2,
    "llama": llama,
    "opt": opt,
}


@cache
def _built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return BUILDERS[name]().eval()


CAUSAL = ("gpt2", "llama", "opt")


def build(name: str) -> Any:
    """Return a new copy of the model called ``name``, in eval mode, always with the same weights."""
    return copy.deepcopy(_built(name))


def model_inputs(model: str, rows: int = 3) -> Tensor:
    """Return the input of a model: token ids ``[rows, 7]``, or features ``[rows, 7, 12]``.

    Three rows have more tokens than a layer computes with a cached rotated weight, which rounds differently.
    """
    generator = torch.Generator().manual_seed(1)
    if model in ("perceptron", "sequential"):
        return torch.randn(rows, 7, 12, generator=generator)
    return torch.randint(2, VOCABULARY, (rows, 7), generator=generator)


def outputs(model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """Return what ``model`` computes for ``x``, passed by position: logits, or the output of a plain module."""
    result = model(x.to(next(model.parameters()).dtype) if x.is_floating_point() else x, **options)
    values: Tensor = getattr(result, "logits", result)
    return values
