"""A model and its tokenizer by folder or name: by an installed package that knows more kinds, else by transformers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.errors import KVError

# Entry points of packages that bring a loader: ``load(model_path, adapter_path, *, dtype, device)`` gives an object
# with ``model`` and ``tokenizer``, and raises ValueError, one sentence, for a user's mistake.
GROUP = "slm_kv.loaders"


class Loaded(NamedTuple):
    """A model in eval mode, a PeftModel where an adapter lies on it, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(model_path: str, adapter_path: str | None = None, *, dtype: torch.dtype, device: str | None = None) -> Loaded:
    """Load a causal language model for inference, its adapter unmerged. Runs no code of a checkpoint.

    Raises KVError, one sentence, for what is missing, damaged or does not fit.
    """
    found = installed_loader() or _load_plain
    try:
        loaded = found(model_path, adapter_path, dtype=dtype, device=device)
    except (ValueError, OSError, ImportError) as refused:
        raise KVError(_sentence(refused)) from refused
    loaded.model.eval().requires_grad_(False)
    return Loaded(loaded.model, loaded.tokenizer)


def installed_loader() -> Callable[..., Any] | None:
    """The loader of another package, where one is installed; the first by name."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return points[0].load() if points else None


def _load_plain(model_path: str, adapter_path: str | None, *, dtype: torch.dtype, device: str | None) -> Loaded:
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, trust_remote_code=False)
    model.to(where)
    tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    if adapter_path is not None:
        from peft import PeftModel  # an extra: only adapters need it

        model = PeftModel.from_pretrained(model, adapter_path)
    return Loaded(model, tokenizer)


def _sentence(refused: Exception) -> str:
    lines = [line.strip() for line in str(refused).splitlines() if line.strip()]
    return lines[0] if lines else type(refused).__name__
