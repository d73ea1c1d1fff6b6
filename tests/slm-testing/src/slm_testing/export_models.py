"""Folders of tiny models with a byte-level tokenizer, to be exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from slm_adapters import apply_soft_cap
from slm_testing.zoo.decoders import LLAMA3_ROPE, YARN_ROPE
from slm_testing.zoo.models import ZOO, config_of
from slm_testing.zoo.weights import scale_up

Settings = dict[str, Any]

LINEAR_ROPE: Settings = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
GEMMA3_ROPE: Settings = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
# Models that can be exported: a name in the zoo, and settings that differ from its.
EXPORTED: dict[str, tuple[str, Settings]] = {
    "gpt2": ("gpt2", {}),
    "gpt2_untied": ("gpt2", {"tie_word_embeddings": False, "n_inner": 160}),
    "llama": ("llama", {}),
    "llama_llama3": ("llama_llama3", {}),
    "llama_yarn": ("llama_yarn", {}),
    "llama_linear": ("llama", {"rope_parameters": LINEAR_ROPE}),
    "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral_windowed": ("mistral", {}),
    "smollm3": ("smollm3", {}),
    "qwen2": ("qwen2", {}),
    "qwen2_yarn": ("qwen2", {"rope_parameters": YARN_ROPE | {"attention_factor": 1.3}}),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 32}),
    "gemma3": ("gemma3", {"rope_parameters": GEMMA3_ROPE}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox_serial": ("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True}),
    "phi": ("phi", {"num_key_value_heads": 2}),
    "phi3": ("phi3", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 1e4}}),
    "phi3_longrope": ("phi3_longrope", {}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {"rope_parameters": LLAMA3_ROPE, "attention_bias": True, "tie_word_embeddings": False}),
}

WORDS = ("the", "and", "ing", "er", "Ġthe", "Ġa", "Ġs", "Ġw", "ĠĠ", "he", "in", "re", "12")
ROWS = 320  # of the embeddings of the zoo's models
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level_tokenizer(pre_tokenizer: Any = None, **options: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte, a few merges and special tokens of ChatML."""
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    tokens = [*specials, *letters]
    for word in WORDS:
        known = word[0]
        for letter in word[1:]:
            if known + letter not in tokens:
                merges.append((known, letter))
                tokens.append(known + letter)
            known += letter
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges, **options))
    backend.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Save a model with a tokenizer, by default that of ``byte_level_tokenizer``."""
    model.save_pretrained(folder)
    (tokenizer or byte_level_tokenizer()).save_pretrained(folder)
    return folder


def tiny_model(name: str) -> PreTrainedModel:
    """Return a new tiny model of ``EXPORTED``, always with the same weights."""
    zoo_name, settings = EXPORTED[name]
    architecture = ZOO[zoo_name]
    config = config_of(replace(architecture, settings=architecture.settings | settings))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        scale_up(model)
    return apply_soft_cap(model.eval())


def save_tiny_model(folder: Path, name: str) -> Path:
    """Save a tiny model with a byte-level tokenizer."""
    return save_model(folder, tiny_model(name))
