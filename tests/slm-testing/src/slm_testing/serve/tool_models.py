"""The built-in base with the chat templates of models that call tools."""

from pathlib import Path

import torch

from slm_adapters import load
from slm_testing.data.tool_templates import TOOL_FAMILIES


def save_tool_model(folder: Path, name: str) -> Path:
    """Save the built-in base with the template and the special tokens of a family in TOOL_FAMILIES."""
    family, loaded = TOOL_FAMILIES[name], load("sample", device="cpu", dtype=torch.float32)
    loaded.tokenizer.chat_template = family.source
    if loaded.tokenizer.add_special_tokens({"additional_special_tokens": list(family.tokens)}):
        loaded.model.resize_token_embeddings(len(loaded.tokenizer) + 3)  # some rows of padding
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder
