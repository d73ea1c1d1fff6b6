"""Tiny models of four architectures, with random weights, and the folders that hold them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from slm_testing.adapters.tiny_adapters import MakeBase, MakeModel, Save, save_run, tokenizer, with_lora

TOKENS = {"vocab_size": 48, "bos_token_id": 0, "eos_token_id": 1}
SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2}

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, n_positions=32, **TOKENS)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, **TOKENS)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **TOKENS)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED, **TOKENS)),
}


@pytest.fixture
def tiny() -> Callable[[str], PreTrainedModel]:
    """``tiny(name)``: a tiny model of that architecture, always with the same weights."""

    def build(name: str) -> PreTrainedModel:
        torch.manual_seed(0)
        return BUILDERS[name]().eval()

    return build


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.randint(0, 48, (2, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make_base(tiny: MakeModel, tmp_path: Path) -> MakeBase:
    """``make_base(name)``: the folder of a tiny model with a tokenizer."""

    def make(name: str) -> Path:
        folder = tmp_path / f"base-{name}"
        tiny(name).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def base(make_base: MakeBase) -> Path:
    return make_base("gpt2")


@pytest.fixture
def save(base: Path, tmp_path: Path) -> Save:
    """``save(adapted, mode)``: the folder of an adapter, as slm-train saves it."""
    return lambda model, mode="lora": save_run(model, tmp_path / "run", str(base), mode)


@pytest.fixture
def run(tiny: MakeModel, save: Save) -> Path:
    return save(with_lora(tiny("gpt2")))
