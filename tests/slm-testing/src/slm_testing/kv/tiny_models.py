"""Tiny models of several architectures, random but fixed, and a way to generate with transformers alone."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
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

sizes: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
grouped: dict[str, Any] = {"num_key_value_heads": 2, "intermediate_size": 48}
MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**sizes)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes, **grouped)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**sizes, **grouped)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=48)),
}
MORE_MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "opt": lambda: OPTForCausalLM(OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**sizes, **grouped)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**sizes, **grouped, head_dim=8)),  # its softcap is refused
}


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """Weights large enough that the likeliest token is no close call."""
    torch.manual_seed(seed)
    model = (MAKERS | MORE_MAKERS)[name]().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.25)
            elif "bias" in key:
                weight.normal_(std=0.1)
    return model


@torch.inference_mode()
def generated(model: PreTrainedModel, prompt: Sequence[int], new: int) -> list[int]:
    """What ``generate`` adds to a prompt, greedily, without an end of text."""
    ids = torch.tensor([list(prompt)])
    asked: Any = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new}
    generate: Any = model.generate
    tokens: list[int] = generate(ids, attention_mask=torch.ones_like(ids), **asked)[0, len(prompt) :].tolist()
    return tokens


def greedy(new: int, **more: Any) -> SamplingParams:
    return SamplingParams(max_new_tokens=new, temperature=0, ignore_eos=True, **more)


def prompts(count: int, longest: int = 24, seed: int = 0) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(VOCABULARY) for _ in range(source.randint(1, longest))] for _ in range(count)]


def run(engine: Engine) -> None:
    while engine.busy:
        engine.step()
        engine.pool.check_integrity()
