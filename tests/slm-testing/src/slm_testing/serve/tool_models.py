"""Models with the chat templates of models that call tools."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from slm_data import sample_base
from slm_testing.data.tool_templates import TOOL_FAMILIES


def save_tool_model(folder: Path, name: str) -> Path:
    """Save a tiny random model with the template and the special tokens of a family in TOOL_FAMILIES."""
    family = TOOL_FAMILIES[name]
    tokenizer = AutoTokenizer.from_pretrained(sample_base(), additional_special_tokens=list(family.tokens))
    tokenizer.chat_template = family.source
    torch.manual_seed(0)
    size = len(tokenizer) + 3  # some rows of padding
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(
        LlamaConfig(**sizes, vocab_size=size, max_position_embeddings=4096, eos_token_id=1)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
