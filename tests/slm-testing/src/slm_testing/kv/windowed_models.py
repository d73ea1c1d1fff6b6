"""Tiny models with sliding windows, soft-capped attention and attention sinks."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from slm_testing.kv.tiny_models import GROUPED_HEADS, SIZES, randomize

WINDOW = 7
LONG_CONTEXT = 512
WINDOWED: dict[str, Any] = SIZES | GROUPED_HEADS | {"max_position_embeddings": LONG_CONTEXT, "sliding_window": WINDOW}
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
MIXED: dict[str, Any] = WINDOWED | {"num_hidden_layers": len(LAYER_TYPES), "layer_types": LAYER_TYPES}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
# In every layer, so that pages are released.
ALL_LAYERS: dict[str, Callable[[], PreTrainedModel]] = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**WINDOWED)),
    "starcoder2": lambda: Starcoder2ForCausalLM(Starcoder2Config(**WINDOWED)),
}
SOME_LAYERS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**MIXED, use_sliding_window=True)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**MIXED, head_dim=8, query_pre_attn_scalar=1, attn_logit_softcapping=1.5)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**MIXED, head_dim=8, query_pre_attn_scalar=8)),
    "olmo3": lambda: Olmo3ForCausalLM(Olmo3Config(**MIXED)),
    "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**MIXED, **EXPERTS, head_dim=8)),
}


def make_windowed_model(name: str, seed: int = 0) -> PreTrainedModel:
    """Build a model with large weights. Its own attention is eager: torch's ignores Gemma 2's soft cap."""
    torch.manual_seed(seed)
    model = randomize((ALL_LAYERS | SOME_LAYERS)[name]().eval())
    model.set_attn_implementation("eager")
    return model
