"""Refusal of configurations that compute something which llama.cpp does not."""

from __future__ import annotations

from typing import Any

from slm_adapters.errors import AdapterError
from slm_adapters.export.architectures import Architecture

SMOLLM3_INTERVAL = 4  # llama.cpp leaves the rotary positions of each fourth layer out
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3_text": 62}  # llama.cpp scales the scores of these otherwise


def check_config(config: Any, architecture: Architecture) -> None:
    """Raise AdapterError, with the name of the setting, for a model that GGUF or llama.cpp cannot express."""
    for name, allowed in architecture.allowed.items():
        value = getattr(config, name, allowed[0])
        if value not in allowed:
            raise _refusal(architecture, f"{name}={value!r}")
    size = head_size(config)
    if not architecture.head_size and size * config.num_attention_heads != config.hidden_size:
        raise _refusal(architecture, f"head_dim={size}")
    if architecture.rope and size % 2:
        raise _refusal(architecture, f"an odd head_dim={size}")
    _check_layer_kinds(config, architecture)
    _check_score_scale(config, architecture)


def head_size(config: Any) -> int:
    """Return the number of features of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def ignored_window(config: Any, architecture: Architecture) -> int | None:
    """Return the sliding window that llama.cpp ignores for this architecture; None if there is none."""
    window = getattr(config, "sliding_window", None)
    if architecture.full_layer_every or not window or not getattr(config, "use_sliding_window", True):
        return None
    kinds = getattr(config, "layer_types", None)
    is_windowed = kinds is None or "sliding_attention" in kinds
    return int(window) if is_windowed and window < config.max_position_embeddings else None


def _check_layer_kinds(config: Any, architecture: Architecture) -> None:
    layers = range(config.num_hidden_layers)
    if every := architecture.full_layer_every:
        expected = ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in layers]
        if list(config.layer_types) != expected:
            raise _refusal(architecture, f"layer_types other than one full_attention in {every}")
    if config.model_type == "smollm3":
        rotary = [int((layer + 1) % SMOLLM3_INTERVAL != 0) for layer in layers]
        if list(config.no_rope_layers) != rotary:
            raise _refusal(architecture, f"no_rope_layers={list(config.no_rope_layers)}")


def _check_score_scale(config: Any, architecture: Architecture) -> None:
    """Gemma's scores are divided by the root of ``query_pre_attn_scalar``, for which GGUF has no key."""
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is None:
        return
    is_27b = config.num_hidden_layers == GEMMA_27B_LAYERS[config.model_type]
    assumed = config.hidden_size // config.num_attention_heads if is_27b else head_size(config)
    if scalar != assumed:
        raise _refusal(architecture, f"query_pre_attn_scalar={scalar} (it assumes {assumed})")
    if config.model_type == "gemma2" and not config.attn_logit_softcapping:
        raise _refusal(architecture, f"attn_logit_softcapping={config.attn_logit_softcapping}")


def _refusal(architecture: Architecture, setting: str) -> AdapterError:
    return AdapterError(
        f"llama.cpp does not compute {architecture.label} models with {setting}, so this one cannot be exported to "
        "GGUF; serve it with slm-serve, or merge it for another program"
    )
