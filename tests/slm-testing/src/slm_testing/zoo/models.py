"""All architectures by name, and their models, built once in a process."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from slm_testing.zoo.architecture import Architecture
from slm_testing.zoo.decoders import DECODERS
from slm_testing.zoo.mixtures import MIXTURES
from slm_testing.zoo.not_causal import ENCODERS
from slm_testing.zoo.positions import POSITIONAL
from slm_testing.zoo.recurrent import RECURRENT
from slm_testing.zoo.weights import scale_up
from slm_testing.zoo.windows import WINDOWS

FAMILIES: dict[str, tuple[Architecture, ...]] = {
    "Rotary positions, all layers see all tokens": DECODERS,
    "Sliding windows and chunks": WINDOWS,
    "Learned, sinusoidal and ALiBi positions": POSITIONAL,
    "Mixtures of experts and latent attention": MIXTURES,
    "Recurrent models and hybrids": RECURRENT,
}
ZOO = {architecture.name: architecture for family in FAMILIES.values() for architecture in family}
_ALL = ZOO | {architecture.name: architecture for architecture in ENCODERS}


def config_of(architecture: Architecture) -> PretrainedConfig:
    """Return the configuration of a tiny model."""
    return AutoConfig.for_model(architecture.model_type, **architecture.settings)


def build(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a new model of an architecture in evaluation mode, always with the same weights."""
    return deepcopy(shared(name, dtype))


@cache
@torch.inference_mode(False)  # also where it is first needed within it: training could not use its parameters
def shared(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the same model at each call: it must not be changed."""
    if dtype != torch.float32:
        model: Any = build(name)
        return model.to(dtype)
    config = config_of(_ALL[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        scale_up(model)
    return model.eval()
