"""All architectures by name, and their models, built once in a process."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from slm_testing.zoo.architecture import Architecture
from slm_testing.zoo.decoders import DECODERS
from slm_testing.zoo.mixtures import MIXTURES
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


def build(name: str) -> PreTrainedModel:
    """Return a new model of an architecture, in evaluation mode and float32, always with the same weights."""
    return deepcopy(_build(name))


@cache
def _build(name: str) -> PreTrainedModel:
    architecture = ZOO[name]
    config = AutoConfig.for_model(architecture.model_type, **architecture.settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        scale_up(model)
    return model.eval()
