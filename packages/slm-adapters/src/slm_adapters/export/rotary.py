"""Rotary positions: their keys in GGUF, and factors of their frequencies as tensors."""

from __future__ import annotations

import math
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from slm_adapters.errors import AdapterError
from slm_adapters.export.architectures import Architecture
from slm_adapters.export.config_checks import head_size

YARN_BETAS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}  # what llama.cpp assumes


def check_rotary(config: Any, architecture: Architecture) -> None:
    """Raise AdapterError for kinds of rotary positions that llama.cpp does not compute for the architecture."""
    if not architecture.rope:
        return
    parameters = _parameters(config)
    if (kind := parameters.get("rope_type", "default")) not in architecture.rope:
        raise _refusal(architecture, f"rope_type={kind!r}")
    if "sliding_attention" in config.rope_parameters:
        local = config.rope_parameters["sliding_attention"].get("rope_type", "default")
        if local != "default":
            raise _refusal(architecture, f"rope_type={local!r} in the layers with a sliding window")
    if rotary_size(config) % 2:
        raise _refusal(architecture, f"partial_rotary_factor={parameters['partial_rotary_factor']}")
    for name, default in YARN_BETAS.items():
        if kind == "yarn" and parameters.get(name, default) not in (default, None):
            raise _refusal(architecture, f"{name}={parameters[name]} of rope_type='yarn'")


def rotary_size(config: Any) -> int:
    """Return the number of features of a head that are rotated."""
    return int(head_size(config) * (_parameters(config).get("partial_rotary_factor") or 1.0))


def write_rotary(writer: Any, config: Any, architecture: Architecture) -> None:
    """Add the keys of the rotary positions to a ``GGUFWriter``."""
    if not architecture.rope:
        return
    parameters = _parameters(config)
    writer.add_rope_dimension_count(rotary_size(config))
    writer.add_rope_freq_base(float(parameters["rope_theta"]))
    if "sliding_attention" in config.rope_parameters:
        writer.add_rope_freq_base_swa(float(config.rope_parameters["sliding_attention"]["rope_theta"]))
    kind = parameters.get("rope_type", "default")
    if kind in ("linear", "yarn", "longrope"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_factor(float(parameters["factor"]))
    if kind in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(_original_context(config))
        writer.add_rope_scaling_attn_factors(_attention_factor(config, kind))


def factor_tensors(config: Any, architecture: Architecture) -> dict[str, Tensor]:
    """Return the tensors by which llama.cpp divides the rotary frequencies, by name."""
    parameters = _parameters(config) if architecture.rope else {}
    kind = parameters.get("rope_type")
    if kind == "llama3":
        plain = parameters["rope_theta"] ** (-torch.arange(0, rotary_size(config), 2) / rotary_size(config))
        return {"rope_freqs.weight": plain / _frequencies(config, kind)[0]}
    if kind == "longrope":
        names = ("long", "short")
        return {f"rope_factors_{name}.weight": torch.tensor(parameters[f"{name}_factor"]).float() for name in names}
    return {}


def _attention_factor(config: Any, kind: str) -> float:
    """Return the factor of queries and keys; for YaRN relative to 1 + 0.1 ln(factor), which llama.cpp applies."""
    factor: float = _frequencies(config, kind)[1]
    return factor / (1 + 0.1 * math.log(_parameters(config)["factor"])) if kind == "yarn" else factor


def _frequencies(config: Any, kind: str) -> tuple[Tensor, float]:
    result: tuple[Tensor, float] = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return result


def _original_context(config: Any) -> int:
    of_model = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
    return int(_parameters(config).get("original_max_position_embeddings") or of_model)


def _parameters(config: Any) -> dict[str, Any]:
    """Return the parameters of the layers that see all tokens."""
    parameters: dict[str, Any] = config.rope_parameters
    return parameters.get("full_attention", parameters)


def _refusal(architecture: Architecture, setting: str) -> AdapterError:
    return AdapterError(
        f"llama.cpp does not compute rotary positions of {architecture.label} models with {setting}, so this one "
        "cannot be exported to GGUF; serve it with slm-serve, or merge it for another program"
    )
