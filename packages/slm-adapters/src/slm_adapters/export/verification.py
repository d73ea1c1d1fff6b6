"""Comparison of a written GGUF file with the model that it was written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from slm_adapters.export.architectures import TANH_GELU, Architecture
from slm_adapters.export.gguf_writer import read_gguf
from slm_adapters.export.tensors import layout_of, list_tensors
from slm_adapters.loading.load import Loaded, load
from slm_adapters.merging.logit_comparison import LogitDifference, compare_logits, probe_logits

# Architectures that transformers reads from GGUF.
READABLE = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
# Largest difference of logits, as a share of the largest logit, that the type of the weights explains. Four bits change
# what a small model says, so q4_0 is reported only.
TOLERANCE = {"f32": 1e-4, "f16": 2e-2, "bf16": 1e-1, "q8_0": 2e-1, "q4_0": None}
# Settings that do not change the logits of a probe, or that GGUF has elsewhere.
_IGNORED = {
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "max_position_embeddings",
    "model_type",
    "n_ctx",
    "n_positions",
    "pretraining_tp",
    "tie_word_embeddings",
    "transformers_version",
    "use_cache",
    "vocab_size",
}
_IGNORED_ENDS = ("_token_id", "dropout", "_pdrop", "_labels")
_IGNORED_STARTS = ("_", "summary_", "output_", "return_")


@dataclass(frozen=True)
class Verification:
    """Difference of logits, and ``reader``, which says how the file was read."""

    difference: LogitDifference
    reader: str

    def fits(self, dtype: str) -> bool:
        """Whether rounding to ``dtype`` explains the difference."""
        tolerance = TOLERANCE[dtype]
        return tolerance is None or self.difference.relative <= tolerance


def verify_file(path: Path, exported: Loaded, architecture: Architecture, input_ids: Tensor) -> Verification:
    """Compare the logits of ``input_ids`` of a file with those of the model in memory, which may be changed.

    The file is loaded with transformers where that reads the architecture with all its settings. Elsewhere the tensors
    are decoded with the package gguf and put into the model in memory.
    """
    model = exported.model
    before = probe_logits(model, input_ids)
    unread = None
    if model.config.model_type in READABLE and (unread := _unread_setting(model.config, _read_config(path))) is None:
        after = probe_logits(load(path, device=model.device).model, input_ids)
        return Verification(compare_logits(before, after), "read back with transformers")
    put_back(path, model, architecture)
    subject = f"{unread} of this file" if unread else f"{architecture.label} models from GGUF"
    reader = f"decoded with the package gguf, since transformers does not read {subject}"
    return Verification(compare_logits(before, probe_logits(model, input_ids)), reader)


@torch.no_grad()
def put_back(path: Path, model: PreTrainedModel, architecture: Architecture) -> None:
    """Replace the weights of ``model`` by those of the file that was written from it."""
    decoded, heads = read_gguf(path), architecture.heads(model.config)
    for tensor in list_tensors(model, architecture):
        if tensor.source is None:
            continue
        layout = layout_of(model, tensor.source.rpartition(".")[0], architecture)
        values = torch.tensor(decoded[tensor.name]).reshape(tensor.shape)
        model.get_parameter(tensor.source).copy_(layout.read(values, heads))


def _read_config(path: Path) -> Any:
    return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def _unread_setting(written: Any, read: Any) -> str | None:
    """Return the name of a setting of the configuration that transformers did not restore from the file."""
    before, after = written.to_dict(), read.to_dict()
    for name, value in before.items():
        if name in _IGNORED or name.endswith(_IGNORED_ENDS) or name.startswith(_IGNORED_STARTS):
            continue
        if not _same(value, after.get(name)):
            return str(name)
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if one in TANH_GELU and other in TANH_GELU:
        return True  # names of one function
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-6 * abs(one)  # GGUF has floats of 32 bits
    return bool(one == other)
