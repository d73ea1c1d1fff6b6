"""Tiny models of several architectures with random but fixed weights, and greedy generation by transformers."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from slm_kv import Engine, SamplingParams

VOCABULARY = 97
POSITIONS = 64

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED_HEADS: dict[str, Any] = {"num_key_value_heads": 2, "intermediate_size": 48}
MODEL_FACTORIES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **GROUPED_HEADS)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **GROUPED_HEADS)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, intermediate_size=48)),
}
MORE_FACTORIES: dict[str, Callable[[], PreTrainedModel]] = {
    "opt": lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32)),
    "tied_llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **GROUPED_HEADS, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, **GROUPED_HEADS)),
}


def make_model(name: str, seed: int = 0) -> PreTrainedModel:
    """Build a model with weights so large that the likeliest token is far ahead of the others."""
    torch.manual_seed(seed)
    return randomize((MODEL_FACTORIES | MORE_FACTORIES)[name]().eval())


@torch.no_grad()
def randomize(model: PreTrainedModel) -> PreTrainedModel:
    """Give ``model`` large random weights, and return it."""
    for key, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.25)
        elif "sinks" in key:
            weight.normal_(std=2)
        elif "bias" in key:
            weight.normal_(std=0.1)
    return model


@torch.inference_mode()
def greedy_tokens(model: PreTrainedModel, prompt: Sequence[int], new: int) -> list[int]:
    """Return the ``new`` tokens that transformers' ``generate`` adds to a prompt, greedily, past any end of text."""
    ids = torch.tensor([list(prompt)])
    settings: Any = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new}
    generate: Any = model.generate
    # Without an explicit mask, ``generate`` takes each pad token in the prompt for padding.
    tokens: list[int] = generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()
    return tokens


def greedy_params(new: int, **settings: Any) -> SamplingParams:
    """Sampling parameters for exactly ``new`` greedy tokens."""
    return SamplingParams(max_new_tokens=new, temperature=0, ignore_eos=True, **settings)


def random_prompts(count: int, longest: int = 24, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to ``longest`` random tokens."""
    source = random.Random(seed)
    return [[source.randrange(VOCABULARY) for _ in range(source.randint(1, longest))] for _ in range(count)]


def run_to_end(engine: Engine) -> None:
    """Step until all requests have ended, checking the pool after each step."""
    while engine.busy:
        engine.step()
        engine.pool.check_integrity()
