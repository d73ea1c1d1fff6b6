"""Keys of a model's configuration in GGUF."""

from __future__ import annotations

from typing import Any

from slm_adapters.export.architectures import Architecture
from slm_adapters.export.config_checks import head_size, ignored_window
from slm_adapters.export.rotary import write_rotary


def write_hyperparameters(writer: Any, config: Any, architecture: Architecture) -> None:
    """Add the sizes and settings of a configuration to a ``GGUFWriter``."""
    heads = architecture.heads(config)
    writer.add_context_length(ignored_window(config, architecture) or config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(_feed_forward_size(config))
    writer.add_head_count(heads.query)
    writer.add_head_count_kv(heads.key_value)
    writer.add_vocab_size(config.vocab_size)
    _write_epsilon(writer, config)
    if architecture.rope:
        writer.add_key_length(head_size(config))
        writer.add_value_length(head_size(config))
    if architecture.full_layer_every:
        writer.add_sliding_window(config.sliding_window)
    for setting, method in architecture.keys.items():
        getattr(writer, method)(getattr(config, setting) or 0)
    write_rotary(writer, config, architecture)


def _feed_forward_size(config: Any) -> int:
    size = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return int(size or 4 * config.hidden_size)


def _write_epsilon(writer: Any, config: Any) -> None:
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon if hasattr(config, "n_embd") else config.layer_norm_eps)
