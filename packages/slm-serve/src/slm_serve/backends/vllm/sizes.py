"""Data type, cache and batch of vLLM's engines: from the settings on a CPU, vLLM's own defaults on a GPU.

The server's defaults are meant for a CPU. On a GPU, vLLM chooses better ones, for its memory: only what was given
explicitly, by a flag, a variable or in Python, is passed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from slm_serve.settings import Settings

# Tokens in a block of vLLM's cache on a CPU. Blocks on a GPU are smaller, so rounding up to this size is safe on both.
BLOCK_SIZE = 128
MEMORY_SHARE = 0.9  # of a GPU's memory that vLLM's engines take by default, here in total


@dataclass(frozen=True)
class EngineSizes:
    """What is passed to each engine of vLLM; None leaves a value to vLLM.

    Attributes:
        dtype: of the weights and the cache; ``auto`` is vLLM's choice.
        context_length: maximum number of tokens of a prompt and its continuation.
        cache_bytes: size of the KV cache.
        max_sequences: texts generated at the same time.
        max_step_tokens: tokens computed in one step.
    """

    dtype: str
    context_length: int | None
    cache_bytes: int | None
    max_sequences: int | None
    max_step_tokens: int | None

    @classmethod
    def from_settings(cls, settings: Settings, config: Any, device: str) -> EngineSizes:
        """Return the sizes for a model with ``config`` on ``device``."""
        dtype, given = _dtype(settings, device), settings.model_fields_set
        has_pool = device == "cpu" or not given.isdisjoint(("page_size", "max_pages"))
        sequences = settings.max_sequences if device == "cpu" or "max_sequences" in given else None
        tokens = settings.max_step_tokens if device == "cpu" or "max_step_tokens" in given else None
        return cls(
            dtype,
            min(config.max_position_embeddings, settings.page_size * settings.max_pages) if has_pool else None,
            kv_cache_bytes(config, settings, dtype) if has_pool else None,
            sequences,
            max(tokens, sequences or 1) if tokens else None,
        )

    def arguments(self, engines: int) -> dict[str, Any]:
        """Return those of vLLM's AsyncEngineArgs, for one of so many engines."""
        arguments: dict[str, Any] = {
            "dtype": self.dtype,
            "max_model_len": self.context_length,
            "kv_cache_memory_bytes": self.cache_bytes,
            "max_num_seqs": self.max_sequences,
            "max_num_batched_tokens": self.max_step_tokens,
        }
        if self.cache_bytes is None and engines > 1:  # alone, each would take almost all memory
            arguments["gpu_memory_utilization"] = MEMORY_SHARE / engines
        return {name: value for name, value in arguments.items() if value is not None}

    def describe(self) -> str:
        """Describe the cache for the start-up message."""
        if self.cache_bytes is None or self.context_length is None:
            return "cache: as large as vLLM makes it (--max_pages gives a size)"
        return f"cache: {self.cache_bytes / 1e6:.1f} MB per engine, at most {self.context_length:,} tokens per text"


def kv_cache_bytes(config: Any, settings: Settings, dtype: str) -> int:
    """Return the size of the pages in the settings, rounded up to whole blocks, plus the block that vLLM reserves."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # On a GPU vLLM resolves "auto" to one of 16 bits, also for a checkpoint in float32.
    itemsize: int = 2 if dtype == "auto" else getattr(torch, dtype).itemsize
    blocks = -(-settings.page_size * settings.max_pages // BLOCK_SIZE) + 1
    return blocks * BLOCK_SIZE * 2 * config.num_hidden_layers * heads * head_size * itemsize


def _dtype(settings: Settings, device: str) -> str:
    """On a CPU float32 unless another one is named: merged models are saved in float32."""
    named = settings.weights if settings.weights in ("float32", "bfloat16") else settings.dtype
    return "float32" if named == "auto" and device == "cpu" else named
