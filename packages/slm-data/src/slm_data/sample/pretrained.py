"""The path of the built-in base model: a small GPT-2 trained by this project (see its README.md)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def sample_base() -> Path:
    """Return the folder of the built-in base: config, bfloat16 weights and tokenizer in transformers' format."""
    return Path(str(files("slm_data.sample") / "base_model"))
