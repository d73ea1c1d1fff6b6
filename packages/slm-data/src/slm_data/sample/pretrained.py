"""Where the built-in base model lies: a small GPT-2 that this project trained, see its README.md."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def sample_base() -> Path:
    """The folder of the built-in base: config, bfloat16 weights and tokenizer, as transformers reads them."""
    return Path(str(files("slm_data.sample") / "base_model"))
